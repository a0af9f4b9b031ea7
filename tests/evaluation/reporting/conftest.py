"""A fixture of the reporting tests: results without files."""

from collections.abc import Callable, Mapping, Sequence

import pytest

from qwen3vl_rl.evaluation.scoring.metrics import summarize, summarize_latency
from qwen3vl_rl.evaluation.scoring.results import Result


@pytest.fixture
def make_result(make_prediction) -> Callable[..., Result]:
    """`make_result({split: correct answers of the samples}, name)`: a result without files."""

    def make(splits: Mapping[str, Sequence[bool]], name: str = "ours") -> Result:
        rows = [
            make_prediction(i, right, split=split) for split, rights in splits.items() for i, right in enumerate(rights)
        ]
        summary = summarize(rows)
        latency = summarize_latency(rows, summary["average"]["of"])
        return Result(name, rows, summary, {"concurrency": 8, "resumed": False, "latency": latency})

    return make

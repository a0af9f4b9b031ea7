"""The figure of longer against bigger is drawn from collected results, and from nothing else."""

import json

import pytest
from PIL import Image

from images.draw_longer_vs_bigger import Results, draw
from qwen3vl_rl.grounding import InputError


def model(parameters: int, acc: float) -> dict:
    found = {"acc": acc, "interval": [acc - 0.02, acc + 0.02]}
    splits = dict.fromkeys(("refshapes_asked", "refshapes_simple"), found)
    kinds = {kind: found | {"samples": 10} for kind in ("attribute", "relation")}
    return {
        "parameters": parameters, "splits": splits, "average": found, "kinds": kinds, "latency_alone_s": acc / 10,
    }  # fmt: skip


def test_rungs_are_ordered_by_size_and_drawn(tmp_path):
    models = {"b/base": model(20_000_000, 0.7), "a/base": model(5_000_000, 0.5), "oracle-a/base": model(5_000_000, 0.8)}
    models |= {f"a/{kind}-{seed}": model(5_000_000, 0.8 + seed / 50) for kind in ("sft", "rl") for seed in range(3)}
    (tmp_path / "results.json").write_text(json.dumps({"models": models}))
    results = Results(tmp_path / "results.json")
    assert results.rungs == ["a", "b"] and results.reasoning() == ["a"] and len(results.runs("a", "rl")) == 3
    draw(results, tmp_path / "figure.png")
    with Image.open(tmp_path / "figure.png") as image:
        assert image.width > 3 * image.height
        assert len(image.convert("RGB").getcolors(1 << 20)) > 50  # more than empty axes


@pytest.mark.parametrize("content", ["{}", "[]", "no json", '{"models": {}}', '{"models": {"oracle-a/base": {}}}'])
def test_other_files_are_refused(tmp_path, content):
    path = tmp_path / "results.json"
    path.write_text(content)
    with pytest.raises(InputError, match=r"results\.json: expected"):
        Results(path)

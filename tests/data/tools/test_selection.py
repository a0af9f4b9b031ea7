"""The release's selection of RL rows."""

from math import nan

import numpy as np

from qwen3vl_rl.data.jsonl import read_jsonl, write_jsonl
from qwen3vl_rl.data.tools.selection import select_released


def test_hard_rows_are_kept_with_as_many_easier_ones_by_bands():
    rng = np.random.default_rng(0)
    own, strong = rng.random(20_000), rng.random(20_000)
    own[:4000] = rng.random(4000) * 0.5
    own[4000:] = 0.5 + rng.random(16_000) / 2
    strong[:1000] = 0.9
    strong[1000:4000] = 0.2
    kept = np.array(sorted(select_released(own, strong)))
    assert set(range(1000)) == set(kept[kept < 4000])
    counts, _ = np.histogram(own[kept[kept >= 4000]], bins=[0.5, 0.6, 0.7, 0.8, 0.9, 1.0])
    assert counts.tolist() == [150, 200, 200, 200, 250]
    assert select_released(own, strong) == set(kept)  # the draw is deterministic


def test_small_bands_are_kept_whole_and_unknown_ious_ignored():
    assert select_released([0.1, 0.2, 0.95, 1.0, nan], [0.9, 0.5, 0.9, nan, 0.9]) <= {0, 2, 3}
    assert 0 in select_released([0.1], [0.9]) and select_released([0.1], [nan]) == set()


def test_filter_selects_by_two_columns(run, tmp_path):
    row = {"image": "a.png", "sent": "cat", "bbox": [0, 0, 9, 9], "width": 20, "height": 20}
    ious = [(0.1, 0.9), (0.3, 0.1), (0.2, 0.8), (0.3, 0.7), (0.4, 0.9), (0.95, 0.9), (0.92, 0.1)]
    rows = [row | {"id": str(k), "own": own, "strong": strong} for k, (own, strong) in enumerate(ious)]
    write_jsonl(tmp_path / "a.jsonl", rows)
    arguments = ["--samples", tmp_path / "a.jsonl", "--out", tmp_path / "b.jsonl", "--strong-column", "strong"]
    assert run("filter", *arguments).code == 2
    done = run("filter", *arguments, "--column", "own")
    assert done.code == 0, done.err
    ids = {row["id"] for row in read_jsonl(tmp_path / "b.jsonl")}
    assert ids >= {"0", "2", "3", "4"} and "1" not in ids and len(ids & {"5", "6"}) == 1

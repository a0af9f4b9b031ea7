"""Files are valid and deterministic by seed, and splits contain the right kinds of expressions."""

import hashlib
import itertools
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from qwen3vl_rl.data.jsonl import read_jsonl
from qwen3vl_rl.data.refshapes import PLAIN, WORLDS, build, referrals
from qwen3vl_rl.data.refshapes.scenes import is_occluded
from qwen3vl_rl.data.samples import check_images, read_samples
from qwen3vl_rl.errors import InputError

ROOT = Path(__file__).parents[3]


def test_kinds_come_in_equal_parts_and_a_fifth_is_amodal(drawn, world):
    for kind in world.kinds:
        assert 0.8 < sum(r.query.kind == kind for r in drawn) / 2000 * len(world.kinds) < 1.2
    assert {len(r.scene.shapes) for r in drawn} == set(range(world.objects[0], world.objects[1] + 1))
    assert 300 < sum(r.amodal for r in drawn) < 500
    assert all(is_occluded(r.target) for r in drawn if r.amodal)


def test_samples_match_published_results():
    drawn = itertools.islice(referrals("refshapes_val-0", PLAIN.kinds, 0.2), 500)
    asked = repr([(r.query.sent, r.xyxy_px, r.amodal) for r in drawn])
    assert (
        hashlib.sha256(asked.encode()).hexdigest() == "72954412b884bdda180e492664063ac490ae576571bee6b573ed115506aa6742"
    )


def test_files_are_deterministic_and_valid(tmp_path):
    for name in ("a", "b"):
        build(tmp_path / name, train=40, val=10, seed=3)
    build(tmp_path / "c", train=40, val=10, seed=4)
    files = [
        "refshapes_train.jsonl",
        "refshapes_train_traces.jsonl",
        *(f"eval/{split}.jsonl" for split in PLAIN.splits),
    ]
    for file in files:
        first, second, other = ((tmp_path / name / file).read_text() for name in ("a", "b", "c"))
        assert first == second != other
    for file in [files[0], *files[2:]]:
        samples = read_samples(tmp_path / "a" / file)
        assert len(samples) == (40 if file == files[0] else 10)
        check_images(((tmp_path, n, s) for n, s in enumerate(samples, start=1)), tmp_path / "a" / "images")
    assert all(s.modal_xyxy_px for s in read_samples(tmp_path / "a/eval/refshapes_amodal_val.jsonl"))


def test_trace_shares_change_only_the_traces(tmp_path):
    build(tmp_path / "all", train=200, val=2, seed=3)
    build(tmp_path / "mixed", train=200, val=2, seed=3, shares={"brief": 0.5, "rationalised": 0.2})
    whole, mixed = (read_jsonl(tmp_path / name / "refshapes_train_traces.jsonl") for name in ("all", "mixed"))
    counts = Counter(row["style"] for row in mixed)
    assert {row["style"] for row in whole} == {"thorough"}
    assert abs(counts["brief"] - 100) < 25 and abs(counts["rationalised"] - 40) < 20 and counts["thorough"] > 35
    kept = [row for row in mixed if row["style"] == "thorough"]
    assert kept == [row for row in whole if row["id"] in {row["id"] for row in kept}]
    first, second = ((tmp_path / name / "refshapes_train.jsonl").read_bytes() for name in ("all", "mixed"))
    assert first == second


def test_amodal_traces_can_be_omitted(tmp_path):
    build(tmp_path / "all", train=60, val=2, seed=3, shares={"brief": 0.5})
    build(tmp_path / "some", train=60, val=2, seed=3, shares={"brief": 0.5}, amodal_traces=False)
    rows = read_jsonl(tmp_path / "some" / "refshapes_train.jsonl")
    whole, some = (list(read_jsonl(tmp_path / name / "refshapes_train_traces.jsonl")) for name in ("all", "some"))
    visible = {row["id"] for row in rows if "modal_bbox" not in row}
    assert some == [row for row in whole if row["id"] in visible] and len(some) < 60


@pytest.mark.parametrize("shares", [{"brief": 1.2}, {"brief": -0.1}, {"brief": 0.6, "rationalised": 0.6}])
def test_invalid_shares_are_rejected(tmp_path, shares):
    with pytest.raises(InputError, match="a sum of at most 1"):
        build(tmp_path / "new", train=2, val=2, seed=0, shares=shares)
    assert not (tmp_path / "new").exists()


def test_splits_hold_their_kinds(tmp_path, world):
    build(tmp_path, train=4, val=40, seed=0, world=world)
    for split, kinds in world.splits.items():
        rows = [json.loads(line) for line in (tmp_path / f"eval/{split}.jsonl").open()]
        assert {row["kind"] for row in rows} == set(kinds)


def test_the_command_line_writes_what_build_writes(tmp_path):
    sizes = ["--train", "6", "--val", "4", "--seed", "2", "--world", "crowded"]
    command = [sys.executable, "-m", "qwen3vl_rl.data.refshapes", "--out", str(tmp_path / "command"), *sizes]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["samples"]["train"] == 6
    build(tmp_path / "here", train=6, val=4, seed=2, world=WORLDS["crowded"])
    first, second = (
        {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.*")}
        for folder in (tmp_path / "command", tmp_path / "here")
    )
    assert first == second and len(first) > 6

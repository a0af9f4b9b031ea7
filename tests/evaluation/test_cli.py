"""The command line refuses bad input in one line before any server starts, and leaves what is there alone."""

import json
import shutil
import subprocess
import sys

import pytest

from qwen3vl_rl.data.files import alone_in
from qwen3vl_rl.errors import InputError
from qwen3vl_rl.evaluation.run import Run
from qwen3vl_rl.evaluation.serving import engines
from qwen3vl_rl.evaluation.serving.questions import read_questions, readable_folder
from qwen3vl_rl.evaluation.serving.server import Endpoint
from qwen3vl_rl.evaluation.serving.settings import load_settings


@pytest.fixture
def copied_world(world, tmp_path):
    """The evaluation files, free to be damaged."""
    folder = tmp_path / "eval"
    folder.mkdir()
    for file in (world / "eval").glob("*.jsonl"):
        (folder / file.name).write_text(file.read_text())
    return folder


def _change_row(file, number, **changes):
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    rows[number - 1] |= changes
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _evaluate(world, data, out, *options):
    command = [sys.executable, "-m", "qwen3vl_rl.evaluation", "--model", f"base={out / 'no checkpoint'}"]
    command += ["--data", data, "--images", world / "images", "--out", out, *options]
    return subprocess.run(list(map(str, command)), capture_output=True, text=True)


def test_a_bad_row_ends_the_command_with_one_line_and_code_2(world, copied_world, tmp_path):
    _change_row(copied_world / "refshapes_testA.jsonl", 4, bbox=[10, 10, 900, 90])
    out = tmp_path / "out"
    (out / "base").mkdir(parents=True)
    (out / "base" / "predictions.jsonl").write_text("earlier\n")
    result = _evaluate(world, copied_world, out)
    assert result.returncode == 2
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1
    assert 'refshapes_testA.jsonl: row 4: field "bbox"' in result.stderr
    assert [path.name for path in out.rglob("*")] == ["base", "predictions.jsonl"]
    assert (out / "base" / "predictions.jsonl").read_text() == "earlier\n"


def test_a_folder_without_checkpoint_ends_the_command_before_any_server(world, tmp_path):
    result = _evaluate(world, world / "eval", tmp_path / "out")
    assert (result.returncode, result.stderr.count("\n")) == (2, 1)
    assert "no checkpoint: expected a Hugging Face checkpoint folder" in result.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"image": "absent.png"}, "image"),
        ({"image": "../eval/refshapes_val.jsonl"}, "image"),
        ({"width": 161}, "width"),
        ({"width": "160"}, "width"),
        ({"sent": ""}, "sent"),
        ({"bbox": [1]}, "bbox"),
    ],
    ids=lambda value: str(value),
)
def test_bad_rows_name_file_row_and_field(world, copied_world, changes, field):
    _change_row(copied_world / "refshapes_val.jsonl", 2, **changes)
    with pytest.raises(InputError, match=rf'refshapes_val\.jsonl: row 2: field "{field}"'):
        read_questions([copied_world], world / "images")


def test_a_split_in_which_nothing_has_a_box_is_refused_before_anything_is_asked(world, copied_world):
    file = copied_world / "refshapes_val.jsonl"
    for number in range(1, 7):
        _change_row(file, number, bbox=None)
    with pytest.raises(InputError, match=r"refshapes_val\.jsonl: expected at least one sample with a box, .* 6"):
        read_questions([copied_world], world / "images")


def test_an_image_that_stops_short_is_named(world, copied_world, tmp_path):
    images = tmp_path / "images"
    shutil.copytree(world / "images", images)
    first = json.loads((copied_world / "refshapes_val.jsonl").read_text().splitlines()[0])["image"]
    (images / first).write_bytes((images / first).read_bytes()[:200])
    with pytest.raises(InputError, match=r'refshapes_val\.jsonl: row 1: field "image".*decoded in full'):
        read_questions([copied_world / "refshapes_val.jsonl"], images)


def test_links_below_the_images_widen_what_a_server_may_read(world, tmp_path):
    questions = read_questions([world / "eval"], world / "images")
    assert readable_folder(questions, world / "images") == (world / "images").resolve()
    linked = tmp_path / "images"
    linked.mkdir()
    for folder in (world / "images").iterdir():
        (linked / folder.name).symlink_to(folder)
    shared = readable_folder(questions, linked)
    assert all((linked / question.sample.image).resolve().is_relative_to(shared) for question in questions)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--endpoint", "http://localhost:1", "--", "--dtype", "bfloat16"], "takes no arguments"),
        (["100"], "expected an option"),
        (["--model", "..=x"], "expected NAME=PATH"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_arguments_that_would_be_ignored_are_refused(world, tmp_path, options, message):
    result = _evaluate(world, world / "eval", tmp_path / "out", *options)
    assert (result.returncode, result.stderr.count("\n")) == (2, 1) and message in result.stderr


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [([], 8), (["--tensor-parallel-size", "2"], 4), (["-tp=4"], 2), (["--tp-size", "2", "--pp-size=2", "--x"], 2)],
    ids=str,
)
def test_replicas_are_as_many_as_the_gpus_hold(monkeypatch, arguments, expected):
    monkeypatch.setattr(engines, "on_cpu", lambda: False)
    monkeypatch.setattr(engines, "_gpu_count", lambda: 8)
    assert engines.replicas(arguments) == expected
    with pytest.raises(InputError, match="a replica of 16 GPUs, this machine has 8"):
        engines.replicas(["-tp", "16"])
    with pytest.raises(InputError, match="server arguments"):
        engines.replicas(["-tp", "many"])


def test_unknown_splits_are_told_which_there_are(world):
    with pytest.raises(InputError, match=r'refshapes_testA, .*got "refcoco_val"'):
        read_questions([world / "eval"], world / "images", splits=["refcoco_val"])


def test_a_split_may_be_given_once(world, copied_world):
    file = "refshapes_val.jsonl"
    with pytest.raises(InputError, match="one file per split"):
        read_questions([world / "eval" / file, copied_world / file], world / "images")


def test_limit_takes_the_first_samples_of_each_chosen_split(world):
    questions = read_questions([world / "eval"], world / "images", ["refshapes_val", "refshapes_testB"], limit=2)
    assert [question.key for question in questions] == [
        "refshapes_testB/000001",
        "refshapes_testB/000002",
        "refshapes_val/000001",
        "refshapes_val/000002",
    ]


@pytest.mark.parametrize(
    "changes",
    [
        {"parser": "mine"},
        {"prompt": "mine"},
        {"coordinates": "pixels"},
        {"max_tokens": 0},
        {"max_tokens": "many"},
        {"max_tokens": True},
        {"top_p": 1.5},
        {"answers": 4},
        {"reasoning_tokens": 4096},
        {"max_pixels": 50176},
        {"prompt": ["qwen3"]},
        {"parser": {"a": "b"}},
        {"seed": -1},
    ],
    ids=str,
)
def test_settings_that_cannot_be_are_refused(changes):
    with pytest.raises(InputError, match=next(iter(changes))):
        load_settings(**changes)


def test_a_settings_file_changes_what_it_names(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("temperature: 0.7\nanswers: 4\n")
    assert load_settings(file, max_tokens=9) == load_settings(temperature=0.7, answers=4, max_tokens=9)
    for content, message in (
        ("temprature: 0.7\n", 'got "temprature"'),
        ("- 1\n", "fields and values"),
        ("a: [", "YAML"),
        ("max_tokens: -1\n", r"mine.yaml: max_tokens"),
    ):
        file.write_text(content)
        with pytest.raises(InputError, match=message):
            load_settings(file)


def test_sampled_answers_have_a_seed_of_their_own():
    seeds = [load_settings(temperature=0.7, seed=seed).sampling(key)["seed"] for seed in (0, 1) for key in ("a", "b")]
    assert len(set(seeds)) == 4
    assert seeds[0] == load_settings(temperature=0.7).sampling("a")["seed"]


def test_a_split_that_is_called_average_is_refused(world, copied_world):
    (copied_world / "refshapes_val.jsonl").rename(copied_world / "average.jsonl")
    with pytest.raises(InputError, match=r'average\.jsonl: expected another name for a split than "average"'):
        read_questions([copied_world], world / "images", splits=["refshapes_testA"])


def test_a_folder_of_other_predictions_is_not_mixed(world, tmp_path, make_prediction):
    """Other samples, settings or weights than those that made the rows: an error that names the difference."""
    questions = read_questions([world / "eval"], world / "images")
    settings = load_settings(max_tokens=50)
    server = Endpoint("http://localhost:1")
    Run(tmp_path, "served", questions, settings, server).write_config()
    (tmp_path / "predictions.jsonl").write_text("")
    Run(tmp_path, "served", questions, settings, server)  # the same may go on
    for others, field in (
        (("served", questions, load_settings(max_tokens=60)), "settings.max_tokens"),
        (("served", questions[:-1], settings), "samples.refshapes_val.count"),
        (("another", questions, settings), "weights"),
    ):
        with pytest.raises(InputError, match=field):
            Run(tmp_path, *others, server)


def test_a_folder_that_another_run_writes_is_refused(tmp_path):
    held = tmp_path / "out"
    holder = "import sys, time; from pathlib import Path; from qwen3vl_rl.data.files import alone_in\n"
    holder += "with alone_in(Path(sys.argv[1])): print('held', flush=True); time.sleep(3600)"
    with subprocess.Popen([sys.executable, "-c", holder, held], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(InputError, match="expected no other run that writes it"), alone_in(held):
            pass
        assert held.is_dir()  # though it is empty: it is the other's
        other.kill()
        other.wait()
        with alone_in(held):  # what a killed run held is free
            pass


def test_an_output_that_is_a_file_is_named(tmp_path):
    (tmp_path / "out").write_text("earlier")
    with pytest.raises(InputError, match="out: expected a folder that can be written"), alone_in(tmp_path / "out"):
        pass
    assert (tmp_path / "out").read_text() == "earlier"

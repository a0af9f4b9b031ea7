"""A run folder accepts predictions of one configuration only, and earlier names of fields still work."""

import json

import pytest
import yaml

from qwen3vl_rl.errors import InputError
from qwen3vl_rl.evaluation.run import Load, Run
from qwen3vl_rl.evaluation.serving.questions import read_questions
from qwen3vl_rl.evaluation.serving.server import Endpoint
from qwen3vl_rl.evaluation.serving.settings import load_settings


def test_predictions_of_another_evaluation_are_not_mixed(world, tmp_path, make_prediction):
    """Other samples, settings or weights than those of the existing rows give an error that names the difference."""
    questions = read_questions([world / "eval"], world / "images")
    settings = load_settings(max_tokens=50)
    server = Endpoint("http://localhost:1")
    Run(tmp_path, "served", questions, settings, server).write_config()
    (tmp_path / "predictions.jsonl").write_text("")
    Run(tmp_path, "served", questions, settings, server)  # the same configuration resumes
    for others, field in (
        (("served", questions, load_settings(max_tokens=60)), "settings.max_tokens"),
        (("served", questions[:-1], settings), "samples.refshapes_val.count"),
        (("another", questions, settings), "weights"),
    ):
        with pytest.raises(InputError, match=field):
            Run(tmp_path, *others, server)


def test_a_folder_with_earlier_names_resumes_and_nothing_is_asked_again(finished_runs, world):
    folder = finished_runs[2]
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["settings"]["parser"] = "house"
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    timing = json.loads((folder / "timing.json").read_text())
    measured = {"requests": 2, "mean_s": 0.1, "p50_s": 0.1, "p95_s": 0.1}
    (folder / "timing.json").write_text(json.dumps(timing | {"alone": measured}))
    questions = read_questions([world / "eval"], world / "images")
    run = Run(folder, "rl", questions, load_settings(), Endpoint("http://localhost:1"))  # it would fail if asked
    run.complete(world / "images", Load(concurrency=8, latency_samples=2))
    assert json.loads((folder / "timing.json").read_text()) == timing | {"single_request_latency": measured}
    with pytest.raises(InputError, match=r'"settings.parser": .* made with strict, expected released'):
        Run(folder, "rl", questions, load_settings(parser="released"), Endpoint("http://localhost:1"))

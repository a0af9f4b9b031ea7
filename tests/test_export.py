"""Which checkpoint of a run is exported, and its model card; tests/test_pipeline.py exports real ones."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file

from qwen3vl_rl.data.predictions import append
from qwen3vl_rl.errors import InputError
from qwen3vl_rl.evaluation.serving.checkpoints import fingerprint
from qwen3vl_rl.export import export, find_checkpoint
from qwen3vl_rl.training.checkpoints import LATEST, VALIDATION
from qwen3vl_rl.training.provenance import CARD

SETTINGS = {"prompt": "qwen3", "temperature": 0.0, "max_tokens": 512, "parser": "strict"}


@pytest.fixture
def run(tmp_path):
    """A run of stage 2 in the folder `run`. Its checkpoint 2 validated better than 4."""
    folder = tmp_path / "run"
    for step in (2, 4):
        shards = folder / f"global_step_{step}" / "actor"
        shards.mkdir(parents=True)
        (shards / "fsdp_config.json").touch()
    rows = [{"step": step, "data": {VALIDATION: accuracy}} for step, accuracy in ((2, 0.9), (4, 0.8))]
    (folder / "metrics-000.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / LATEST).write_text("4")
    return folder


def test_the_latest_or_the_best_checkpoint_of_a_run_or_a_folder_of_it(run):
    assert find_checkpoint(run) == run / "global_step_4" / "actor"
    assert find_checkpoint(run, "best") == run / "global_step_2" / "actor"
    assert find_checkpoint(run / "global_step_2") == run / "global_step_2" / "actor"


def test_without_validation_there_is_no_best(run):
    (run / "metrics-000.jsonl").write_text("")
    with pytest.raises(InputError, match="expected a validated checkpoint"):
        find_checkpoint(run, "best")
    with pytest.raises(InputError, match="expected a training run"):
        find_checkpoint(run / "global_step_4" / "actor" / "nothing")


@pytest.fixture
def saved_run(run) -> Path:
    """`run` with weights in Hugging Face format, and with a card that belongs to the base model."""
    for step in (2, 4):
        folder = run / f"global_step_{step}" / "actor" / "huggingface"
        folder.mkdir()
        save_file({"weight": torch.full((8, 8), float(step))}, folder / "model.safetensors")
        (folder / "config.json").write_text(
            json.dumps({"model_type": "qwen3_vl", "text_config": {}, "vision_config": {}})
        )
        (folder / CARD).write_text("# Base model")
    return run


@pytest.fixture
def evaluate(tmp_path, make_prediction) -> Callable[..., Path]:
    """`evaluate(checkpoint)`: the folder of its finished evaluation, 2 of 3 answers right."""

    def write(checkpoint: Path, server: dict | None = None, **changes: object) -> Path:
        folder = tmp_path / f"evaluation_{checkpoint.name}"
        folder.mkdir()
        with (folder / "predictions.jsonl").open("w") as file:
            for number in range(3):
                append(file, make_prediction(number, number > 0))
        engine = server or {"engine": "vllm", "version": "0.24.0", "arguments": []}
        config = fingerprint(checkpoint) | {
            "server": engine,
            "settings": SETTINGS,
            "samples": {"toy_val": {"count": 3}},
        }
        (folder / "config.yaml").write_text(yaml.safe_dump(config | changes))
        (folder / "summary.json").write_text("{}")
        (folder / "timing.json").write_text(json.dumps({"latency": {}, "resumed": False}))
        return folder

    return write


def test_a_family_that_is_not_quantized_is_refused_before_the_merge(run, tmp_path):
    """The run has shards alone, and merging them would fail."""
    config = run / "global_step_4" / "actor" / "huggingface" / "config.json"
    config.parent.mkdir()
    config.write_text('{"model_type": "internvl"}')
    with pytest.raises(InputError, match=r'config\.json: field "model_type": expected qwen3_vl, found internvl'):
        export(run, tmp_path / "fp8", fp8=True)
    assert not list(tmp_path.glob("fp8*"))


def test_an_export_has_a_card_with_the_scores_of_its_evaluation(saved_run, evaluate, tmp_path):
    target = tmp_path / "EGM-8B"
    export(saved_run, target)
    text = (target / CARD).read_text()
    assert "# EGM-8B" in text and "Base model\n\nThe base model is not recorded." in text
    assert "The export was given no evaluation." in text
    export(saved_run, target, scores=evaluate(target))
    text = (target / CARD).read_text()
    assert "| model | toy_val | average |" in text and "| EGM-8B | 66.7 | 66.7 |" in text and "|   ± |" in text
    assert "intervals: 95 %, bootstrap over images" in text
    assert "Answers of vllm 0.24.0: prompt `qwen3`, temperature 0.0, at most 512 tokens, parser `strict`." in text


def test_scores_of_other_weights_are_rejected_and_nothing_is_written(saved_run, evaluate, tmp_path):
    export(saved_run, tmp_path / "best", "best")
    scores = evaluate(tmp_path / "best")
    with pytest.raises(InputError, match=r"expected an evaluation of the exported weights, .*\(weights differ\)"):
        export(saved_run, tmp_path / "latest", scores=scores)
    assert not list(tmp_path.glob("latest*/"))
    config = yaml.safe_load((scores / "config.yaml").read_text())
    (scores / "config.yaml").write_text(yaml.safe_dump(config | {"inputs": "other"}))
    with pytest.raises(InputError, match=r"tokenizer, .* differ"):
        export(saved_run, tmp_path / "best", "best", scores)


def test_an_evaluation_of_a_server_cannot_be_checked(saved_run, evaluate, tmp_path):
    export(saved_run, tmp_path / "hf")
    scores = evaluate(tmp_path / "hf", {"endpoint": "http://secret:1"}, weights="served at http://secret:1")
    export(saved_run, tmp_path / "hf", scores=scores)
    text = (tmp_path / "hf" / CARD).read_text()
    assert "Answers of a running server:" in text and "secret" not in text
    assert "did not record whether the server had these weights" in text


def test_scores_must_be_a_finished_evaluation(saved_run, evaluate, tmp_path):
    export(saved_run, tmp_path / "hf")
    scores = evaluate(tmp_path / "hf")
    for folder, message in ((scores / "predictions.jsonl", "found a file"), (saved_run, "no predictions.jsonl")):
        with pytest.raises(InputError, match=message):
            export(saved_run, tmp_path / "hf", scores=folder)
    config = yaml.safe_load((scores / "config.yaml").read_text())
    (scores / "config.yaml").write_text(yaml.safe_dump({"samples": config["samples"]}))
    with pytest.raises(InputError, match="expected the fields that an evaluation writes"):
        export(saved_run, tmp_path / "hf", scores=scores)


def test_others_may_read_the_weights_if_they_may_read_the_rest(saved_run, tmp_path):
    """A server may belong to another user."""
    export(saved_run, tmp_path / "model")
    modes = {path.name: path.stat().st_mode for path in (tmp_path / "model").iterdir()}
    assert modes["model.safetensors"] == modes["config.json"]


@pytest.mark.parametrize("target", ["sigmoid/best", "run/hf"])
def test_a_folder_whose_name_says_little_is_named_with_its_parent(saved_run, tmp_path, target):
    export(saved_run, tmp_path / target, "best")
    text = (tmp_path / target / CARD).read_text()
    assert f"# {target}\n" in text and f"bash scripts/serve.sh {target}\n" in text


@pytest.mark.long
@pytest.mark.slow
def test_the_command_takes_scores_of_one_checkpoint(saved_run, evaluate, tmp_path):
    command = [sys.executable, "-m", "qwen3vl_rl.export", saved_run, tmp_path / "hf"]
    subprocess.run(command, check=True)
    scores = evaluate(tmp_path / "hf")
    subprocess.run([*command, "--scores", scores], check=True)
    assert "| hf | 66.7 |" in (tmp_path / "hf" / CARD).read_text()
    several = [*command, "--scores", scores, "--checkpoint", "latest", "best"]
    done = subprocess.run(several, capture_output=True, text=True)
    assert done.returncode == 2 and "expected one --checkpoint" in done.stderr

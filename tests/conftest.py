"""One run of SFT, GRPO and export on a CPU, shared by all tests that look at what it leaves behind; predictions."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, settings

from examples.starter.build import build_checkpoint
from examples.starter.internvl import build_checkpoint as build_internvl
from qwen3vl_rl.data import refshapes
from qwen3vl_rl.data.parquet import write_rows
from qwen3vl_rl.data.predictions import Prediction, Question, score
from qwen3vl_rl.data.rl_rows import write_rl_parquet
from qwen3vl_rl.data.samples import Sample, read_samples
from qwen3vl_rl.export import export
from qwen3vl_rl.grounding import Box, px_to_1000, target_text
from qwen3vl_rl.training import cpu
from sft.build_dataset import SFT_SCHEMA, read_traces, sft_row

ROOT = Path(__file__).parents[1]
# Rollouts of the whole distribution, so that trainer and vLLM score the same thing. Answers of an untrained model all
# score 0: the entropy bonus is what moves it.
SMALL_RL = [
    "data.train_batch_size=4",
    "data.max_response_length=32",
    "actor_rollout_ref.actor.ppo_mini_batch_size=4",
    "actor_rollout_ref.actor.entropy_coeff=0.01",
    "actor_rollout_ref.actor.optim.lr=1e-3",
    "actor_rollout_ref.rollout.n=4",
    "actor_rollout_ref.rollout.temperature=1",
    "actor_rollout_ref.rollout.top_p=1",
    "actor_rollout_ref.rollout.top_k=-1",
    "trainer.val_before_train=false",
]
STARTS_AN_ENGINE = {"train", "server"}  # fixtures

# Hydra parses verl's 34 YAML files for every recipe that is composed. libyaml takes an eighth of the time.
yaml.SafeLoader = yaml.CSafeLoader

# A slow machine is no failure.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("fast", settings.get_profile("any machine"), max_examples=20)  # scripts/test.sh --fast
settings.load_profile("any machine")


def pytest_addoption(parser):
    parser.addoption("--soak", action="store_true", help="also run the long tests, in tests/soak")


def pytest_ignore_collect(collection_path, config):
    return True if collection_path.name == "soak" and not config.getoption("--soak") else None


@pytest.hookimpl(tryfirst=True)  # before `-m` chooses
def pytest_collection_modifyitems(items):
    for item in items:
        if STARTS_AN_ENGINE.intersection(item.fixturenames):
            item.add_marker("engine")
        if item.path.parent.name == "soak":
            item.add_marker("long")


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef):
    """Report the failure of a shared fixture once. pytest would raise it again in every test that uses the fixture."""
    try:
        return (yield)
    except pytest.skip.Exception:
        raise
    except BaseException:
        _, key, _ = fixturedef.cached_result
        again = pytest.skip.Exception(f"the fixture {fixturedef.argname} has failed")
        fixturedef.cached_result = (None, key, (again, None))
        raise


@pytest.fixture(scope="session")
def sft_command(starter, training_data) -> Callable[..., list[str]]:
    """`sft_command(folder, *overrides)`: stage 1 on `starter`, 8 steps of 16 samples."""

    def command(folder: Path, *overrides: str) -> list[str]:
        stage = [sys.executable, "-m", "sft.train", "hardware=cpu", "size=tiny", "data.train_batch_size=16"]
        files = [f"model.path={starter}", f"data.train_files={training_data}/sft.parquet"]
        return [*stage, *files, f"trainer.default_local_dir={folder}", *overrides]

    return command


@pytest.fixture(scope="session")
def small_rl() -> list[str]:
    """Overrides that make a step of stage 2 small: 4 prompts with 4 samples each."""
    return SMALL_RL


@pytest.fixture(scope="session")
def rl_command(sft_checkpoint, training_data) -> Callable[..., list[str]]:
    """`rl_command(folder, *overrides)`: stage 2 on `sft_checkpoint`, 4 prompts with 4 samples each per step."""

    def command(folder: Path, *overrides: str) -> list[str]:
        stage = [sys.executable, "-m", "qwen3vl_rl.train", "hardware=cpu", "size=tiny", *SMALL_RL]
        files = [f"data.train_files={training_data}/rl.parquet", f"data.val_files={training_data}/rl_val.parquet"]
        model = f"actor_rollout_ref.model.path={sft_checkpoint}"
        return [*stage, model, *files, f"trainer.default_local_dir={folder}", *overrides]

    return command


@pytest.fixture(scope="session")
def train() -> Callable[[list[str]], str]:
    """`train(command)`: run a stage as a user does, and return what it prints. A failure of the run fails the test."""

    def run(command: list[str]) -> str:
        stage = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert stage.returncode == 0, stage.stdout + stage.stderr
        return stage.stdout

    return run


@pytest.fixture(scope="session")
def starter(tmp_path_factory) -> Path:
    """A checkpoint of random weights."""
    folder = tmp_path_factory.mktemp("starter") / "checkpoint"
    build_checkpoint(folder, seed=0)
    return folder


@pytest.fixture(scope="session")
def internvl(tmp_path_factory) -> Path:
    """An InternVL checkpoint of random weights."""
    folder = tmp_path_factory.mktemp("internvl") / "checkpoint"
    build_internvl(folder, seed=0)
    return folder


@pytest.fixture(scope="session")
def training_data(tmp_path_factory) -> Path:
    """RefShapes, and the parquet files of both stages: 128 training samples, 4 for validation."""
    folder = tmp_path_factory.mktemp("training_data")
    refshapes.build(folder, train=128, val=4, seed=0)
    images, samples = folder / "images", read_samples(folder / "refshapes_train.jsonl")
    traces = read_traces(folder / "refshapes_train_traces.jsonl")
    rows = (sft_row(sample, traces[sample.id].reasoning, images) for sample in samples)
    write_rows(folder / "sft.parquet", rows, SFT_SCHEMA)
    write_rl_parquet(folder / "rl.parquet", samples, "train", images)
    write_rl_parquet(folder / "rl_val.parquet", samples[:4], "train", images)
    return folder


@pytest.fixture(scope="session")
def sft_run(train, sft_command, tmp_path_factory) -> Path:
    """A finished run of stage 1."""
    folder = tmp_path_factory.mktemp("sft") / "run"
    train(sft_command(folder))
    return folder


@pytest.fixture(scope="session")
def sft_checkpoint(sft_run, tmp_path_factory) -> Path:
    """The Hugging Face folder of `sft_run`."""
    folder = tmp_path_factory.mktemp("sft_checkpoint") / "checkpoint"
    export(sft_run, folder)
    return folder


@pytest.fixture(scope="session")
def rl_run(train, rl_command, tmp_path_factory) -> Path:
    """A finished run of stage 2: 3 steps, then validation."""
    folder = tmp_path_factory.mktemp("rl") / "run"
    train(rl_command(folder, "trainer.total_training_steps=3"))
    return folder


@pytest.fixture(scope="session")
def rl_checkpoint(rl_run, tmp_path_factory) -> Path:
    """The Hugging Face folder of `rl_run`."""
    folder = tmp_path_factory.mktemp("rl_checkpoint") / "checkpoint"
    export(rl_run, folder)
    return folder


@pytest.fixture
def user_environment() -> dict[str, str]:
    """The variables of this process without those that a CPU run has set in it."""
    return {name: value for name, value in os.environ.items() if name not in {*cpu.VARIABLES, "PYTHONPATH"}}


@pytest.fixture
def make_prediction() -> Callable[..., Prediction]:
    """`make_prediction(number, correct, split=..., image=..., modal=...)`: scored from an answer's text."""

    def make(
        number: int, correct: bool, *, split: str = "toy_val", image: str | None = None, modal: Box | None = None
    ) -> Prediction:
        truth = (100.0, 100.0, 300.0, 300.0)
        sample = Sample(f"s{number}", image or f"{number}.png", 1000, 1000, "the <b>star</b>", truth, modal)
        answered = truth if correct else (600.0, 600.0, 800.0, 800.0)
        text = target_text("There is one star.", px_to_1000(answered, 1000, 1000), sample.sent)
        question = Question(f"{split}/{number:06d}", split, sample)
        prediction = score(question, text, parser="strict", finish_reason="stop")
        return replace(prediction, tokens=20 + number, latency_s=0.1 * (number + 1))

    return make

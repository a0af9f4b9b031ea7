"""A start knows the commit of its code and the overrides of its command, without secrets and folders in them."""

import subprocess
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig

from qwen3vl_rl.training.starts import ROOT, Start, hide_secrets, revision, without_folders, without_secret


def git(checkout: Path, *words: str) -> str:
    author = ("-c", "user.name=a", "-c", "user.email=a@b")
    done = subprocess.run(["git", "-C", checkout, *author, *words], check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path) -> Path:
    """A git checkout with code and a result of a benchmark."""
    for path in (tmp_path / "code.py", tmp_path / "benchmarks" / "results" / "x.json"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("1")
    git(tmp_path, "init")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "one")
    return tmp_path


def test_the_commit_is_told_and_whether_files_differ_from_it(checkout):
    commit = git(checkout, "rev-parse", "--short", "HEAD")
    (checkout / "benchmarks" / "results" / "x.json").write_text("2")
    (checkout / "untracked.py").touch()
    assert revision(checkout) == {"commit": commit, "dirty": False}
    (checkout / "code.py").write_text("2")
    assert revision(checkout) == {"commit": commit, "dirty": True}


def test_a_folder_without_a_checkout_of_its_own_has_no_commit(checkout):
    (checkout / "site-packages").mkdir()
    assert revision(checkout / "site-packages") == {}
    assert revision(checkout / "gone") == {}


def test_overrides_are_those_of_the_command_as_given(monkeypatch, tmp_path):
    assert Start.of_this_process() == Start(**revision(ROOT), overrides=None)
    given = ["+a=1", "+b=${oc.env:HOME}", "++c.WANDB_API_KEY=12ab"]
    with initialize_config_dir(str(tmp_path), version_base=None):
        config = compose(overrides=[*given, "hydra.run.dir=."], return_hydra_config=True)
    monkeypatch.setattr(HydraConfig.instance(), "cfg", config)
    assert Start.of_this_process().overrides == [*given[:2], "++c.WANDB_API_KEY=***"]
    shown = hide_secrets(config)
    assert (shown.a, shown.c.WANDB_API_KEY, config.c.WANDB_API_KEY) == (1, "***", "12ab")


@pytest.mark.parametrize(
    "override",
    [
        "+ray_kwargs.ray_init.runtime_env.env_vars.HF_TOKEN=ab",
        "+ray_kwargs.ray_init.runtime_env.env_vars={HF_HOME: x, WANDB_API_KEY: ab}",
        "+trainer.hub_token=ab",
        "+trainer.hub={token: ab}",
        "+engine.api_key=ab",
        "+engine.arguments=[--api-key, ab]",
        "+ray_kwargs.ray_init._redis_password=ab",
        "+proxy=http://me:ab@host:80",
    ],
)
def test_secrets_are_hidden(override):
    assert without_secret(override) == override.partition("=")[0] + "=***"


@pytest.mark.parametrize(
    "override",
    [
        "data.max_token_len_per_gpu=4096",
        "actor_rollout_ref.actor.loss_agg_mode=seq-mean-token-mean",
        "data.prompt_key=prompt",
        "trainer.logger=[console,wandb]",
        "data.train_files=[/a/b.parquet,s3://c/d@e.parquet]",
        "~trainer.secret",
    ],
)
def test_other_overrides_stay(override):
    assert without_secret(override) == override


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/a/b c/d.parquet", "d.parquet"),
        ("~/a/d.parquet", "d.parquet"),
        ("['/a/b.parquet', '/c/d.parquet']", "['b.parquet', 'd.parquet']"),
        ("x={p: /a/b, q: file:///c/d}", "x={p: b, q: d}"),
        ("model.path=Qwen/Qwen3-VL-8B-Thinking", "model.path=Qwen/Qwen3-VL-8B-Thinking"),
        ("url=https://host/a/b", "url=https://host/a/b"),
        ("ratio=1/2", "ratio=1/2"),
    ],
)
def test_paths_lose_their_folders(text, shown):
    assert without_folders(text) == shown

"""Every recipe composes over verl's own configs, verl accepts it, and bad values give an error of one line."""

import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

import qwen3vl_rl.training.recipe  # noqa: F401  (what `${verl_config:…}` in the recipes means)
from qwen3vl_rl.errors import InputError
from qwen3vl_rl.reward import REWARDS, check_settings
from qwen3vl_rl.training.metrics import read_metrics

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
SFT, RL = ROOT / "sft" / "config", ROOT / "qwen3vl_rl" / "config"
PATHS = ["actor_rollout_ref.model.path=checkpoint", "data.train_files=train.parquet", "data.val_files=val.parquet"]


def choices(folder: Path) -> list[str]:
    return sorted(path.stem for path in folder.glob("[!_]*.yaml"))


def recipe(folder: Path, *overrides: str) -> DictConfig:
    name = {SFT: "sft", RL: "grounding_grpo"}[folder]
    with initialize_config_dir(str(folder), version_base=None):
        return compose(name, list(overrides))


@pytest.mark.parametrize("hardware", choices(SFT / "hardware"))
@pytest.mark.parametrize("size", choices(SFT / "size"))
def test_every_sft_recipe_composes(size, hardware):
    config = recipe(
        SFT, f"size={size}", f"hardware={hardware}", "model.path=checkpoint", "data.train_files=train.parquet"
    )
    assert OmegaConf.to_container(config, resolve=True)["data"]["custom_cls"]["name"] == "ThinkingSFTDataset"


@pytest.mark.parametrize(
    ("size", "engine", "hardware"),
    [
        *((size, "vllm", "node8") for size in choices(RL / "size")),
        *(("8b", engine, hardware) for engine in choices(RL / "engine") for hardware in choices(RL / "hardware")),
    ],
)
def test_every_rl_recipe_composes(size, engine, hardware):
    config = recipe(RL, f"size={size}", f"engine={engine}", f"hardware={hardware}", *PATHS)
    assert OmegaConf.to_container(config, resolve=True)["actor_rollout_ref"]["rollout"]["name"] == engine


@pytest.mark.parametrize("hardware", choices(RL / "hardware"))
@pytest.mark.parametrize("engine", choices(RL / "engine"))
@pytest.mark.parametrize("size", ["tiny", "8b"])
def test_verl_accepts_the_rl_recipe(size, engine, hardware):
    from verl.utils.config import omega_conf_to_dataclass, validate_config

    config = recipe(RL, f"hardware={hardware}", f"engine={engine}", f"size={size}", *PATHS)
    validate_config(config, use_reference_policy=True, use_critic=False)
    actor = omega_conf_to_dataclass(config.actor_rollout_ref.actor)
    assert (actor.policy_loss.loss_mode, actor.loss_agg_mode) == ("gspo", "seq-mean-token-mean")
    assert actor.optim.lr_scheduler_type == "cosine"
    assert omega_conf_to_dataclass(config.actor_rollout_ref.rollout).val_kwargs.temperature == 0


@pytest.mark.parametrize("hardware", choices(SFT / "hardware"))
def test_verl_accepts_the_sft_recipe(hardware):
    from verl.utils.config import omega_conf_to_dataclass

    config = recipe(SFT, f"hardware={hardware}")
    assert omega_conf_to_dataclass(config.engine).strategy == "fsdp2"
    assert omega_conf_to_dataclass(config.optim).lr_scheduler_type == "cosine"


def test_gspos_clip_range_is_set_by_one_key():
    from verl.utils.config import omega_conf_to_dataclass

    actor = omega_conf_to_dataclass(recipe(RL, "actor_rollout_ref.actor.clip_ratio=3e-4").actor_rollout_ref.actor)
    assert actor.clip_ratio == actor.clip_ratio_low == actor.clip_ratio_high == 3e-4


@pytest.mark.parametrize("words", [[], ["speed=fast"], ["hardware=cpu", "size=tiny"]], ids=str)
def test_verl_accepts_the_released_recipe(words):
    from verl.utils.config import omega_conf_to_dataclass, validate_config

    config = recipe(RL, "recipe=released", *words, *PATHS)
    validate_config(config, use_reference_policy=True, use_critic=False)
    actor = omega_conf_to_dataclass(config.actor_rollout_ref.actor)
    assert (actor.policy_loss.loss_mode, actor.loss_agg_mode) == ("gspo_sequence_mean", "token-mean")
    assert actor.policy_loss.rollout_correction.bypass_mode is ("speed=fast" in words)
    assert config.actor_rollout_ref.rollout.name == "vllm"


def test_verl_accepts_the_released_recipe_of_stage_1():
    from verl.utils.config import omega_conf_to_dataclass

    config = recipe(SFT, "recipe=released", "size=2b")
    assert omega_conf_to_dataclass(config.engine).freeze_deepstack_mergers
    assert config.model.enable_gradient_checkpointing


def test_the_former_name_of_offloading_is_read():
    assert recipe(RL, "speed=released") == recipe(RL, "speed=offload") == recipe(RL)


def test_sglang_rolls_out_on_gpus_and_vllm_where_there_is_none():
    names = {hardware: recipe(RL, f"hardware={hardware}") for hardware in choices(RL / "hardware")}
    assert {hardware for hardware, config in names.items() if config.actor_rollout_ref.rollout.name == "vllm"} == {
        "cpu"
    }


@pytest.mark.parametrize("reward", sorted(set(choices(RL / "reward")) - {"custom"}))
def test_every_reward_reaches_its_function_with_all_that_it_asks_for(reward):
    overrides = ["reward.threshold=0.7", "reward.parser=released_reward", "reward.budget_tokens=50"]
    config = recipe(RL, f"reward={reward}", *overrides)
    function = OmegaConf.to_container(config.reward, resolve=True)["custom_reward_function"]
    settings = {"alpha": 0.5, "threshold": 0.7, "parser": "released_reward", "budget_tokens": 50}
    assert function["reward_kwargs"] == {"reward_type": reward, **settings}
    assert config.reward.reward_model.enable is False  # verl's own fields are kept


def test_the_strict_parser_may_have_its_earlier_name():
    check_settings(**recipe(RL, "reward.parser=house").reward.custom_reward_function.reward_kwargs)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["reward=custom", "reward.function=/nowhere/mine.py:best"], "no such file: /nowhere/mine.py"),
        (["reward.parser=released"], 'parser: expected one of strict, released_reward, released_eval, got "released"'),
        (["reward.alpha=2"], r"reward\.alpha: expected a number in 0\.\.1, got 2"),
        (["reward.threshold=high"], r"reward\.threshold: expected a number in 0\.\.1, got 'high'"),
        (["reward.budget_tokens=0"], r"reward\.budget_tokens: expected a positive integer, got 0"),
    ],
)
def test_settings_of_a_reward_that_cannot_work_are_refused(overrides, message):
    with pytest.raises(InputError, match=message):
        check_settings(**recipe(RL, *overrides).reward.custom_reward_function.reward_kwargs)


@pytest.mark.parametrize("returned", ["None", "float('nan')", "'0.5'"])
def test_a_reward_that_returns_no_number_is_refused(returned, tmp_path):
    (tmp_path / "mine.py").write_text(f"def mine(parts):\n    return {returned}\n")
    overrides = ["reward=custom", f"reward.function={tmp_path}/mine.py:mine"]
    with pytest.raises(InputError, match=r"mine\.py:mine to return a number for a right answer, got "):
        check_settings(**recipe(RL, *overrides).reward.custom_reward_function.reward_kwargs)


def test_every_training_reward_has_a_recipe():
    assert set(choices(RL / "reward")) == set(REWARDS) - {"eval"} | {"custom"}


@pytest.mark.parametrize("module", ["sft.train", "qwen3vl_rl.train"])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["hardware=toaster"], ', node8, got "toaster"\n'),
        (["size=tiny"], "model.path: expected a path, got nothing\n"),
        (["data.train_filez=x"], "; add one with +data.train_filez\n"),
    ],
)
def test_bad_choices_end_in_one_line(module, arguments, message):
    run = subprocess.run([sys.executable, "-m", module, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr.startswith("error: ")
    assert run.stderr.endswith(message)
    assert run.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["reward=best"], 'normalized_exp, penalty, sigmoid, got "best"'),
        (["reward=custom"], "reward.function: expected FILE.py:NAME, got nothing"),
        (["reward.custom_reward_function.reward_kwargs.reward_type=best"], "reward_type: expected one of mix, "),
        (
            ["data.train_files=/nowhere/train.parquet"],
            "data.train_files: no such file or folder: /nowhere/train.parquet",
        ),
    ],
)
def test_bad_rl_values_end_in_one_line(overrides, message, tmp_path):
    files = [f"{key}={tmp_path}" for key in ("actor_rollout_ref.model.path", "data.train_files", "data.val_files")]
    command = [sys.executable, "-m", "qwen3vl_rl.train", "size=tiny", "hardware=cpu", *files, *overrides]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (run.returncode, run.stderr.count("\n")) == (2, 1)
    assert message in run.stderr


@pytest.mark.parametrize("module", ["sft.train", "qwen3vl_rl.train"])
def test_a_recipe_prints_without_importing_verl(module):
    code = f"import sys, runpy; sys.argv = ['x', '--cfg', 'job']; runpy.run_module('{module}', run_name='__main__')"
    check = f"try:\n {code}\nfinally:\n assert 'verl' not in sys.modules and 'torch' not in sys.modules"
    run = subprocess.run([sys.executable, "-c", check], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "total_epochs" in run.stdout


def test_the_steps_of_a_resumed_run_are_read_once(tmp_path):
    (tmp_path / "metrics-000.jsonl").write_text('{"step":1,"data":{"loss":3}}\n{"step":2,"data":{"loss":9}}\n')
    (tmp_path / "metrics-001.jsonl").write_text('{"step":2,"data":{"loss":2}}\n')
    assert read_metrics(tmp_path) == {1: {"loss": 3}, 2: {"loss": 2}}


def test_the_validation_of_a_resumed_run_leaves_the_metrics_of_its_step(tmp_path):
    (tmp_path / "metrics-000.jsonl").write_text('{"step":2,"data":{"loss":3,"val-core/acc":0.5}}\n')
    (tmp_path / "metrics-001.jsonl").write_text('{"step":2,"data":{"val-core/acc":0.6}}\n')
    assert read_metrics(tmp_path) == {2: {"loss": 3, "val-core/acc": 0.6}}

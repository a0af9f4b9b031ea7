"""Stage 2: reinforcement learning (GRPO advantages, GSPO loss) with verl's PPO trainer.

    python -m qwen3vl_rl.train hardware=cpu size=tiny actor_rollout_ref.model.path=SFT_CHECKPOINT \
        data.train_files=rl_train.parquet data.val_files=rl_val.parquet

`--cfg job` prints the composed recipe. `training/run_folder.py` lists the files of a run, which are written to
`trainer.default_local_dir`. Rerun the command to resume after an interruption.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import hydra
import numpy as np
from huggingface_hub import hf_hub_download
from omegaconf import DictConfig, OmegaConf

from qwen3vl_rl.errors import InputError, cli
from qwen3vl_rl.grounding import parser_name
from qwen3vl_rl.models.families import find_family
from qwen3vl_rl.training import launch, preflight
from qwen3vl_rl.training.checkpoints import VALIDATION, is_trained, latest_step, repair_checkpoint_record
from qwen3vl_rl.training.metrics import read_metrics
from qwen3vl_rl.training.recipe import make_absolute, run_composed

COLUMNS = {
    "reward": "critic/score/mean",
    "accuracy": "reward/acc",
    "validation accuracy": VALIDATION,
    "tokens": "response_length/mean",
    "KL": "actor/kl_loss",
    "seconds": "timing_s/step",
}


def train(config: DictConfig) -> None:
    make_paths_absolute(config)
    reward = config.reward.custom_reward_function.reward_kwargs
    reward.parser = parser_name(reward.parser)
    steps = preflight.check(config)
    folder = Path(config.trainer.default_local_dir)
    if is_trained(config, steps) and not config.trainer.val_only:
        print(f"{folder}: all {min(steps, latest_step(folder))} steps are trained")
        return
    if config.actor_rollout_ref.rollout.name == "sglang":
        set_sglang_sampling(config)
    repair_checkpoint_record(folder)
    launch.run(config, ["verl.trainer.main_ppo"], COLUMNS, steps)
    for line in summary(read_metrics(folder)):
        print(line)


def summary(metrics: Mapping[int, Mapping[str, float]]) -> Iterator[str]:
    """How reward and length of the answers changed during a run."""
    rewards, lengths = (
        {step: row[name] for step, row in metrics.items() if name in row}
        for name in ("critic/score/mean", "response_length/mean")
    )
    if (slope := trend(rewards)) is not None:
        yield "reward trend per step {:+.4f} (95 % interval {:+.4f} to {:+.4f})".format(*slope)
    if lengths:
        first, last = min(lengths), max(lengths)
        yield f"answers: {lengths[first]:.0f} tokens in step {first}, {lengths[last]:.0f} in step {last}"


def make_paths_absolute(config: DictConfig) -> None:
    """Make the recipe's paths absolute, since Ray's workers may run in another folder. The name of a reward stays."""
    kwargs = config.reward.custom_reward_function.reward_kwargs
    if kwargs.reward_type is None:
        raise InputError("reward.function: expected FILE.py:NAME, got nothing")
    file, colon, name = kwargs.reward_type.rpartition(":")
    if colon:
        kwargs.reward_type = f"{Path(file).expanduser().resolve()}:{name}"
    make_absolute(config, "data.train_files", "data.val_files", "actor_rollout_ref.model.path")


def set_sglang_sampling(config: DictConfig) -> None:
    """Forbid sampling the placeholders of images and videos, and pass on `rollout.ignore_eos`.

    verl 0.9.1 does both only for vLLM. A sampled placeholder has no image, and the actor fails on such an answer.
    """
    model = Path(config.actor_rollout_ref.model.path).expanduser()
    path = model / "config.json" if model.is_dir() else hf_hub_download(str(model), "config.json")
    ids = json.loads(Path(path).read_text())
    bias = {str(ids[key]): -1e4 for key in find_family(ids).placeholder_keys}
    key = "actor_rollout_ref.rollout.engine_kwargs.sglang.preferred_sampling_params"
    given = OmegaConf.select(config, key) or {}
    sampling = dict(json.loads(given) if isinstance(given, str) else given)
    sampling["logit_bias"] = bias | sampling.get("logit_bias", {})
    sampling.setdefault("ignore_eos", config.actor_rollout_ref.rollout.ignore_eos)
    OmegaConf.update(config, key, json.dumps(sampling), force_add=True)


def trend(values: Mapping[int, float], replicates: int = 2000) -> tuple[float, float, float] | None:
    """Least-squares slope of value over step, with the limits of its 95 % percentile interval (bootstrap over steps).

    None for fewer than three steps, which are too few to resample.
    """
    if len(values) < 3:
        return None
    step, value = np.array(list(values)), np.array(list(values.values()))
    draws = np.random.default_rng(0).integers(len(step), size=(replicates, len(step)))
    draws = draws[step[draws].std(axis=1) > 0]
    x, y = (sample[draws] - sample[draws].mean(axis=1, keepdims=True) for sample in (step, value))
    low, high = np.percentile((x * y).sum(axis=1) / (x * x).sum(axis=1), [2.5, 97.5])
    return float(np.polyfit(step, value, 1)[0]), float(low), float(high)


@hydra.main(config_path="config", config_name="grounding_grpo", version_base=None)
def main(config: DictConfig) -> None:
    cli(lambda: train(config))


if __name__ == "__main__":
    cli(lambda: run_composed(main, Path(__file__).parent / "config"))

"""Stage 2: reinforcement learning (GRPO advantages, GSPO loss) with verl's PPO trainer.

    python -m qwen3vl_rl.train hardware=cpu size=tiny actor_rollout_ref.model.path=SFT_CHECKPOINT \
        data.train_files=rl_train.parquet data.val_files=rl_val.parquet

`--cfg job` prints the composed recipe. `engine/launch.py` tells what a run leaves in `trainer.default_local_dir`.
"""

import sys
from collections.abc import Mapping
from pathlib import Path

import hydra
import numpy as np
from omegaconf import DictConfig

from qwen3vl_rl.engine import launch
from qwen3vl_rl.grounding import InputError, cli
from qwen3vl_rl.reward import REWARDS

COLUMNS = {
    "reward": "critic/score/mean",
    "validation accuracy": "val-core/grounding/acc/mean@1",
    "tokens": "response_length/mean",
    "KL": "actor/kl_loss",
    "seconds": "timing_s/step",
}


def train(config: DictConfig) -> None:
    launch.check_paths(config, "actor_rollout_ref.model.path", "data.train_files", "data.val_files")
    reward = config.reward.custom_reward_function.reward_kwargs.reward_type
    if reward not in REWARDS:
        raise InputError(f'reward_type: expected one of {", ".join(REWARDS)}, got "{reward}"')
    launch.run(config, ["verl.trainer.main_ppo"], COLUMNS)
    steps = launch.read_metrics(Path(config.trainer.default_local_dir))
    rewards = {step: row["critic/score/mean"] for step, row in steps.items() if "critic/score/mean" in row}
    if (slope := trend(rewards)) is not None:
        print("reward trend per step {:+.4f} (95 % interval {:+.4f} to {:+.4f})".format(*slope))


def trend(values: Mapping[int, float], replicates: int = 2000) -> tuple[float, float, float] | None:
    """Least-squares slope of value over step, with a 95 % percentile interval of a bootstrap over the steps.

    None for fewer than three steps, which leave nothing to resample.
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
    cli(lambda: launch.check_choices(Path(__file__).parent / "config", sys.argv[1:]))
    main()

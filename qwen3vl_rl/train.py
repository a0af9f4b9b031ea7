"""Stage 2: reinforcement learning (GRPO advantages, GSPO loss) with verl's PPO trainer.

    python -m qwen3vl_rl.train hardware=cpu size=tiny actor_rollout_ref.model.path=SFT_CHECKPOINT \
        data.train_files=rl_train.parquet data.val_files=rl_val.parquet

`--cfg job` prints the composed recipe. `engine/launch.py` tells what a run leaves in `trainer.default_local_dir`.
"""

import sys
from pathlib import Path

import hydra
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


@hydra.main(config_path="config", config_name="grounding_grpo", version_base=None)
def main(config: DictConfig) -> None:
    cli(lambda: train(config))


if __name__ == "__main__":
    cli(lambda: launch.check_choices(Path(__file__).parent / "config", sys.argv[1:]))
    main()

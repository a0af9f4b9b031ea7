"""Stage 2: reinforcement learning (GRPO advantages, GSPO loss) with verl's PPO trainer.

    python -m qwen3vl_rl.train hardware=cpu size=tiny actor_rollout_ref.model.path=SFT_CHECKPOINT \
        data.train_files=rl_train.parquet data.val_files=rl_val.parquet

`--cfg job` prints the composed recipe.
"""

import hydra
from omegaconf import DictConfig

from qwen3vl_rl.engine import cpu, launch


@hydra.main(config_path="config", config_name="grounding_grpo", version_base=None)
def main(config: DictConfig) -> None:
    launch.check_files(config, "actor_rollout_ref.model.path", "data.train_files", "data.val_files")
    if config.trainer.device == "cpu":
        cpu.activate()
    from verl.trainer import main_ppo

    main_ppo.main(config)


if __name__ == "__main__":
    main()

"""verl's PPO trainer, with what it deals out to the ranks chosen by `whole_prompts.py`: `verl.trainer.main_ppo` for us.

python -m qwen3vl_rl.verl_ext.main_ppo --config-path FOLDER --config-name NAME
"""

import hydra
import ray
from omegaconf import DictConfig
from verl.trainer.main_ppo import TaskRunnerV1, run_ppo
from verl.trainer.ppo.utils import need_critic, need_reference_policy
from verl.utils.config import validate_config


class TaskRunner(TaskRunnerV1.__ray_actor_class__):  # Ray forbids to inherit from its wrapper of the class
    def run(self, config: DictConfig) -> None:
        import qwen3vl_rl.verl_ext.whole_prompts  # noqa: F401  # in this process verl looks up its trainers

        super().run(config)


@hydra.main(config_path=None, version_base=None)
def main(config: DictConfig) -> None:
    validate_config(config, need_reference_policy(config), need_critic(config))
    run_ppo(config, task_runner_class=ray.remote(TaskRunner))


if __name__ == "__main__":
    main()

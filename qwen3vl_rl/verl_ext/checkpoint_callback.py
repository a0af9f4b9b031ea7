"""What verl 0.9.1's trainer does after every checkpoint; selected with `trainer.checkpoint_callback_class`."""

from pathlib import Path

from verl.trainer.ppo.checkpoint_callback import CheckpointCallback

from qwen3vl_rl.training.checkpoints import remove_others


class KeepLatestAndBest(CheckpointCallback):
    """Keeps the latest and the best checkpoint.

    verl's own limit (`max_actor_ckpt_to_keep`) ignores scores, and checkpoints of earlier starts.
    """

    def on_save(self, trainer, global_step: int, checkpoint_dir: str, async_save: bool = False, **kwargs) -> None:
        remove_others(Path(checkpoint_dir).parent)

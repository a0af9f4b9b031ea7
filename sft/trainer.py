"""verl 0.9.1's SFT trainer with timing, and with correct resuming at an epoch's end and on another number of GPUs.

`sft.train` starts it with torchrun. A checkpoint at the end of an epoch holds a data loader with no batches left. verl
resumes with this data loader, so the next epoch ends without a step, and a last epoch is neither trained nor saved.
"""

import time
from collections.abc import Callable
from pathlib import Path

import hydra
import torch
from omegaconf import DictConfig
from tensordict import TensorDict
from verl.trainer.sft_trainer import SFTTrainer
from verl.utils import tensordict_utils
from verl.utils.checkpoint.checkpoint_handler import CheckpointHandler
from verl.utils.device import auto_set_device
from verl.utils.distributed import destroy_global_process_group, initialize_global_process_group


class AnyRanksHandler(CheckpointHandler):
    """Also loads the state of data loaders that another number of ranks has saved.

    Each rank has read the same number of batches. With more ranks the batches are smaller, so all ranks together have
    read the same samples.
    """

    def _load_dataloader_state(self, checkpoint_path: str) -> None:
        own, first = (Path(checkpoint_path, f"data_{rank}.pt") for rank in (self.dp_rank, 0))
        state = torch.load(own if own.exists() else first, map_location="cpu", weights_only=False)
        self.train_dataloader.load_state_dict(with_batches_of(state, self.train_dataloader.batch_size))


def with_batches_of(state: dict, size: int) -> dict:
    """The state of a data loader converted to batches of `size` samples."""
    state = {key: with_batches_of(value, size) if isinstance(value, dict) else value for key, value in state.items()}
    sampler = state.get("_sampler_iter_state")
    if sampler and "samples_yielded" in sampler:
        sampler["samples_yielded"] = state["_sampler_iter_yielded"] * size
    return state


class EpochSafeSFTTrainer(SFTTrainer):
    def _build_ckpt_handler(self) -> None:
        super()._build_ckpt_handler()
        self.ckpt_handler.__class__ = AnyRanksHandler  # verl's method always creates its own class

    def fit(self) -> None:
        if self.resume_global_step and self.resume_global_step % self.steps_per_epoch == 0:
            self._build_dataloader()
            self.ckpt_handler.train_dataloader = self.train_dataloader  # the handler saves its state
        self.training_client.train_batch = timed(self.training_client.train_batch)
        super().fit()


def timed(train_batch: Callable[..., TensorDict | None]) -> Callable[..., TensorDict | None]:
    """`train_batch` with three more metrics.

    `perf/step_s` is the time since the step before, `timing_s/data` its part before the update, and `perf/tokens_per_s`
    the throughput of all GPUs together.
    """
    before = time.perf_counter()

    def train_and_time(data: TensorDict) -> TensorDict | None:
        nonlocal before
        begin = time.perf_counter()
        tokens = sum(tensordict_utils.get(data, "global_token_num"))
        output = train_batch(data=data)
        now = time.perf_counter()
        step_s, loading_s, before = now - before, begin - before, now
        if output is not None:
            metrics = tensordict_utils.get(output, "metrics")
            metrics |= {"perf/step_s": step_s, "timing_s/data": loading_s, "perf/tokens_per_s": tokens / step_s}
        return output

    return train_and_time


@hydra.main(config_path=None, version_base=None)
def main(config: DictConfig) -> None:
    auto_set_device(config)
    initialize_global_process_group()
    EpochSafeSFTTrainer(config).fit()
    destroy_global_process_group()


if __name__ == "__main__":
    main()

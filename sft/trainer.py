"""verl 0.9.1's SFT trainer, resumed rightly at an epoch's end. `sft.train` starts it under torchrun.

A checkpoint written at the end of an epoch holds a data loader that has nothing left. verl goes on with it, so that the
next epoch passes without a step; if it was to be the last, nothing more is trained or saved.
"""

import hydra
from omegaconf import DictConfig
from verl.trainer.sft_trainer import SFTTrainer
from verl.utils.device import auto_set_device
from verl.utils.distributed import destroy_global_process_group, initialize_global_process_group


class EpochSafeSFTTrainer(SFTTrainer):
    def fit(self) -> None:
        if self.resume_global_step and self.resume_global_step % self.steps_per_epoch == 0:
            self._build_dataloader()
            self.ckpt_handler.train_dataloader = self.train_dataloader  # whose state it saves
        super().fit()


@hydra.main(config_path=None, version_base=None)
def main(config: DictConfig) -> None:
    auto_set_device(config)
    initialize_global_process_group()
    EpochSafeSFTTrainer(config).fit()
    destroy_global_process_group()


if __name__ == "__main__":
    main()

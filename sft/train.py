"""Stage 1: supervised fine-tuning on reasoning traces, with verl's SFT trainer.

    python -m sft.train hardware=cpu size=tiny model.path=CHECKPOINT data.train_files=sft_train.parquet

`--cfg job` prints the composed recipe. The command starts one process per GPU through torchrun; start it under a
torchrun of your own for several nodes.
"""

import os
import sys

import hydra
from omegaconf import DictConfig

from qwen3vl_rl.engine import cpu, launch


@hydra.main(config_path="config", config_name="sft", version_base=None)
def main(config: DictConfig) -> None:
    launch.check_files(config, "model.path", "data.train_files", "data.val_files")
    if config.trainer.device == "cpu":
        cpu.activate()
    if "RANK" not in os.environ:
        torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={config.trainer.n_gpus_per_node}"]
        os.execv(sys.executable, [sys.executable, *torchrun, "-m", "sft.train", *sys.argv[1:]])
    from verl.trainer.sft_trainer import run_sft

    run_sft(config)


if __name__ == "__main__":
    main()

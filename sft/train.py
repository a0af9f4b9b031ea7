"""Stage 1: supervised fine-tuning on reasoning traces, with verl's SFT trainer.

    python -m sft.train hardware=cpu size=tiny model.path=CHECKPOINT data.train_files=sft_train.parquet

`--cfg job` prints the composed recipe. `engine/launch.py` tells what a run leaves in `trainer.default_local_dir`.
"""

import sys
from pathlib import Path

import hydra
from omegaconf import DictConfig

from qwen3vl_rl.engine import launch
from qwen3vl_rl.grounding import cli

COLUMNS = {"loss": "train/loss", "gradient norm": "train/grad_norm", "validation loss": "val/loss"}


def train(config: DictConfig) -> None:
    launch.check_paths(config, "model.path", "data.train_files", *(["data.val_files"] if config.data.val_files else []))
    torchrun = ["torch.distributed.run", "--standalone", f"--nproc-per-node={config.trainer.n_gpus_per_node}"]
    launch.run(config, [*torchrun, "-m", "verl.trainer.sft_trainer"], COLUMNS)


@hydra.main(config_path="config", config_name="sft", version_base=None)
def main(config: DictConfig) -> None:
    cli(lambda: train(config))


if __name__ == "__main__":
    cli(lambda: launch.check_choices(Path(__file__).parent / "config", sys.argv[1:]))
    main()

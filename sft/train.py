"""Stage 1: supervised fine-tuning on reasoning traces, with verl's SFT trainer.

    python -m sft.train hardware=cpu size=tiny model.path=CHECKPOINT data.train_files=sft_train.parquet

`--cfg job` prints the composed recipe. `engine/launch.py` tells what a run leaves in `trainer.default_local_dir`. The
same command goes on after an interruption.
"""

import sys
from pathlib import Path

import hydra
import pyarrow.parquet as pq
from omegaconf import DictConfig, OmegaConf

from qwen3vl_rl.engine import launch
from qwen3vl_rl.engine.checkpoints import is_trained, mend_record
from qwen3vl_rl.grounding import InputError, cli

COLUMNS = {"loss": "train/loss", "gradient norm": "train/grad_norm", "validation loss": "val/loss"}
# Settings that make two starts one run. The number of GPUs, too: verl names the shards of a checkpoint by them.
SAME_RUN = (
    "model.path",
    "model.lora_rank",
    "model.override_config.freeze_vision",
    "data.train_files",
    "data.train_batch_size",
    "pixels.sft",
    "optim.lr",
    "trainer.nnodes",
    "trainer.n_gpus_per_node",
)


def train(config: DictConfig) -> None:
    files = ["data.train_files", *(["data.val_files"] if config.data.val_files else [])]
    launch.check_paths(config, "model.path", *files)
    launch.check_same_run(config, SAME_RUN)
    rows = {key: check_rows(config, key) for key in files}
    folder = Path(config.trainer.default_local_dir)
    steps = config.trainer.total_training_steps
    steps = steps or rows["data.train_files"] // config.data.train_batch_size * config.trainer.total_epochs
    if is_trained(config, steps):
        print(f"{folder}: all {steps} steps are trained")
        return
    mend_record(folder)
    # Of several nodes, torchrun's PET_RDZV_* variables tell where they meet.
    nodes = ["--standalone"] if config.trainer.nnodes == 1 else [f"--nnodes={config.trainer.nnodes}"]
    torchrun = ["torch.distributed.run", *nodes, f"--nproc-per-node={config.trainer.n_gpus_per_node}"]
    launch.run(config, [*torchrun, "-m", "sft.trainer"], COLUMNS)


def check_rows(config: DictConfig, key: str) -> int:
    """The rows of `key`. Raises InputError for less than a batch: verl drops such a rest, and works on nothing."""
    files = OmegaConf.select(config, key)
    files = [files] if isinstance(files, str) else files
    rows, batch = sum(pq.ParquetFile(path).metadata.num_rows for path in files), config.data.train_batch_size
    if rows < batch:
        raise InputError(f"{key}: expected at least the {batch} rows of data.train_batch_size, found {rows}")
    return rows


@hydra.main(config_path="config", config_name="sft", version_base=None)
def main(config: DictConfig) -> None:
    cli(lambda: train(config))


if __name__ == "__main__":
    cli(lambda: launch.check_choices(Path(__file__).parent / "config", sys.argv[1:]))
    main()

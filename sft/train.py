"""Stage 1: supervised fine-tuning on reasoning traces, with verl's SFT trainer.

    python -m sft.train hardware=cpu size=tiny model.path=CHECKPOINT data.train_files=sft_train.parquet

`--cfg job` prints the composed recipe. `training/run_folder.py` lists the files of a run, which are written to
`trainer.default_local_dir`. Rerun the command to resume after an interruption.
"""

from pathlib import Path

import hydra
from omegaconf import DictConfig

from qwen3vl_rl.errors import InputError, cli
from qwen3vl_rl.training import launch, preflight
from qwen3vl_rl.training.checkpoints import is_trained, keep_newest, repair_checkpoint_record
from qwen3vl_rl.training.recipe import LORA, check_paths, make_absolute, run_composed
from qwen3vl_rl.training.run_folder import check_same_run, check_same_workers, is_first_node, record_data_hash

COLUMNS = {
    "loss": "train/loss",
    "gradient norm": "train/grad_norm",
    "tokens/s": "perf/tokens_per_s",
    "seconds": "perf/step_s",
    "validation loss": "val/loss",
}
LOSS_SPANS = ("answer", "turn")
COLUMNS_OF_FILE = ("messages", "images")
# Settings that must be equal for a start to resume a run.
SAME_RUN = (
    "model.path",
    *(f"model.{name}" for name in LORA),
    "engine.freeze_vision",
    "engine.freeze_deepstack_mergers",
    "data.train_files",
    "data.train_batch_size",
    "data.max_length",
    "data.loss_span",
    "trainer.train_files_sha256",
    "pixels.sft",
    "optim",
)


def train(config: DictConfig) -> None:
    steps = check(config)
    folder = Path(config.trainer.default_local_dir)
    if is_trained(config, steps):
        print(f"{folder}: all {steps} steps are trained")
        return
    repair_checkpoint_record(folder)
    # On several nodes, torchrun reads the rendezvous endpoint from its PET_RDZV_* variables.
    nodes = ["--standalone"] if config.trainer.nnodes == 1 else [f"--nnodes={config.trainer.nnodes}"]
    torchrun = ["torch.distributed.run", *nodes, f"--nproc-per-node={config.trainer.n_gpus_per_node}"]
    launch.run(config, [*torchrun, "-m", "sft.trainer"], COLUMNS, steps)
    if config.trainer.max_ckpt_to_keep and is_first_node():
        keep_newest(folder, config.trainer.max_ckpt_to_keep)


def check(config: DictConfig) -> int:
    """Check all that is known before a start. Returns the number of steps; raises InputError with what to change."""
    files = ["data.train_files", *(["data.val_files"] if config.data.val_files else [])]
    check_paths(config, "model.path", *files)
    make_absolute(config, "model.path")
    rows = {key: preflight.check_rows(config, key, COLUMNS_OF_FILE, "sft.build_dataset") for key in files}
    for key in files:
        preflight.check_texts(config, key, "messages", "model.path")
    record_data_hash(config, "data.train_files")
    check_same_run(config, SAME_RUN)
    check_same_workers(config, "data.num_workers")
    preflight.check_whole(config)
    steps = preflight.check_steps(config, rows["data.train_files"])
    if (found := rows.get("data.val_files", steps * config.data.train_batch_size)) < config.data.train_batch_size:
        batch = config.data.train_batch_size  # verl drops incomplete batches, and would validate nothing
        raise InputError(f"data.val_files: expected at least the {batch} rows of data.train_batch_size, found {found}")
    check_settings(config)
    if config.trainer.device != "cpu" and config.trainer.nnodes == 1:
        preflight.check_gpus_here(config)
    return steps


def check_settings(config: DictConfig) -> None:
    """Raise InputError for settings that verl 0.9.1 accepts at first, but fails on or changes later."""
    data, trainer, sequence_parallel = config.data, config.trainer, config.engine.ulysses_sequence_parallel_size
    ranks = trainer.n_gpus_per_node * trainer.nnodes
    if ranks % sequence_parallel or data.train_batch_size % (ranks // sequence_parallel):
        raise InputError(
            f"data.train_batch_size={data.train_batch_size}: expected a multiple of the {ranks} GPUs"
            f" / engine.ulysses_sequence_parallel_size={sequence_parallel}"
        )
    if data.loss_span not in LOSS_SPANS:
        raise InputError(f'data.loss_span: expected {" or ".join(LOSS_SPANS)}, got "{data.loss_span}"')
    preflight.check_family(config, "model.path", "engine", "pixels.sft")
    preflight.check_strategy(config, "engine.strategy")
    preflight.check_liger(config, "model", "engine")
    preflight.check_response_logits(config, "model", "engine")
    for switch in ("no_shard", "skip_dp_sync"):
        preflight.check_one_gpu(config, f"engine.{switch}")
    if config.engine.get("share_prompts"):
        raise InputError("engine.share_prompts=true: expected false, as only stage 2 shares prompts")
    preflight.check_adapters(config, "model", "engine")
    if trainer.test_freq != -1 and not data.val_files:
        raise InputError(f"trainer.test_freq={trainer.test_freq}: expected data.val_files to be set")
    if data.use_dynamic_bsz and data.max_token_len_per_gpu * sequence_parallel < data.max_length:
        raise InputError(
            f"data.max_token_len_per_gpu={data.max_token_len_per_gpu}: expected room for one sample of data.max_length="
            f"{data.max_length} tokens; lower data.max_length as well"
        )


@hydra.main(config_path="config", config_name="sft", version_base=None)
def main(config: DictConfig) -> None:
    cli(lambda: train(config))


if __name__ == "__main__":
    cli(lambda: run_composed(main, Path(__file__).parent / "config"))

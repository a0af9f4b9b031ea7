"""Export a training checkpoint to a Hugging Face folder: weights, configs, tokenizer, processor, chat template.

    python -m qwen3vl_rl.export outputs/rl checkpoints/rl                            # the latest checkpoint
    python -m qwen3vl_rl.export outputs/rl checkpoints/rl --checkpoint latest best   # checkpoints/rl/{latest,best}

The first argument is a run of either stage, or one of its `global_step_*` folders. The best checkpoint of a run has the
highest accuracy on its validation set; of several equal ones, it is the earliest.

Weights that the checkpoint holds in Hugging Face format (`save_contents` with `hf_model`, the default on a CPU) are
copied without rounding. Sharded weights are merged by verl's merger, which rounds them to bfloat16.
"""

import argparse
import json
import os
import shutil
from pathlib import Path
from types import MappingProxyType

from safetensors import safe_open

from qwen3vl_rl.errors import InputError, cli
from qwen3vl_rl.models.lora import META, fold_adapters
from qwen3vl_rl.training.checkpoints import VALIDATION, best_step, latest_step

STEPS = MappingProxyType({"latest": latest_step, "best": best_step})


def export(source: Path, target: Path, which: str = "latest") -> None:
    """Write `target` completely or not at all, and replace an earlier checkpoint there. `which`: a key of `STEPS`.

    Raises InputError if `source` holds no such checkpoint, or if `target` holds other files.
    """
    checkpoint = find_checkpoint(source, which)
    if target.exists() and any(target.iterdir()) and not (target / "config.json").exists():
        raise InputError(f"{target}: expected no such folder or an earlier checkpoint, found other files")
    draft = target.with_name(f"{target.name}.{os.getpid()}.part")
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        if any(checkpoint.glob("huggingface/*.safetensors")):
            shutil.copytree(checkpoint / "huggingface", draft)
        else:
            _merge(checkpoint, draft)
        if (checkpoint / META).exists():
            fold_adapters(draft, checkpoint / META)
        _state_dtype(draft)
        shutil.rmtree(target, ignore_errors=True)
        draft.rename(target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def find_checkpoint(source: Path, which: str = "latest") -> Path:
    """The folder with verl's shards, which stage 2 keeps in a subfolder `actor`. Of a run, its latest or best step."""
    step = STEPS[which](source)
    folder = source if step is None else source / f"global_step_{step}"
    for shards in (folder / "actor", folder):
        if (shards / "fsdp_config.json").exists():
            return shards
    if latest_step(source) is not None:
        raise InputError(f"{source}: expected a validated checkpoint, found none with {VALIDATION}")
    raise InputError(f"{source}: expected a training run or a global_step_* folder of one")


def _merge(checkpoint: Path, target: Path) -> None:
    from verl.model_merger.base_model_merger import ModelMergerConfig  # takes seconds to import
    from verl.model_merger.fsdp_model_merger import FSDPModelMerger

    config = ModelMergerConfig(
        operation="merge",
        backend="fsdp",
        local_dir=str(checkpoint),
        target_dir=str(target),
        hf_model_config_path=str(checkpoint / "huggingface"),
    )
    FSDPModelMerger(config).merge_and_save()


def _state_dtype(folder: Path) -> None:
    """Write the dtype of the weights into config.json, where verl always writes bfloat16."""
    with safe_open(next(folder.glob("*.safetensors")), "pt") as weights:
        dtype = weights.get_slice(next(iter(weights.keys()))).get_dtype()
    path = folder / "config.json"
    config = json.loads(path.read_text())
    for part in (config, config["text_config"], config["vision_config"]):
        part["dtype"] = {"F32": "float32", "BF16": "bfloat16"}[dtype]
    path.write_text(json.dumps(config, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="a training run or one of its global_step_* folders")
    parser.add_argument("target", type=Path, help="the Hugging Face folder to write")
    parser.add_argument("--checkpoint", choices=STEPS, nargs="+", default=["latest"], help="of a run (default: latest)")
    arguments = parser.parse_args()
    for which in arguments.checkpoint:
        target = arguments.target / which if len(arguments.checkpoint) > 1 else arguments.target
        export(arguments.source, target, which)
        print(f"wrote {target}")


if __name__ == "__main__":
    cli(main)

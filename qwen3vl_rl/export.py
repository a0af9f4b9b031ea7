"""A training checkpoint as a Hugging Face folder: weights, configs, tokenizer, processor and chat template.

    python -m qwen3vl_rl.export outputs/rl checkpoints/rl

The first argument is a run of either stage (its latest checkpoint is taken) or one of its `global_step_*` folders.
Weights that the checkpoint holds in Hugging Face form (`save_contents` with `hf_model`, as on a CPU) are taken as they
are, unrounded; sharded ones are merged by verl's merger, which rounds them to bfloat16.
"""

import argparse
import json
import os
import shutil
from pathlib import Path

from safetensors import safe_open

from qwen3vl_rl.grounding import InputError, cli


def export(source: Path, target: Path) -> None:
    """Write `target` whole or not at all; an earlier checkpoint there is replaced.

    Raises InputError where `source` holds no checkpoint, and where `target` holds something else.
    """
    checkpoint = find_checkpoint(source)
    if target.exists() and any(target.iterdir()) and not (target / "config.json").exists():
        raise InputError(f"{target}: expected no such folder or an earlier checkpoint, found other files")
    draft = target.with_name(f"{target.name}.{os.getpid()}.part")
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        if any(checkpoint.glob("huggingface/*.safetensors")):
            shutil.copytree(checkpoint / "huggingface", draft)
        else:
            _merge(checkpoint, draft)
        _state_dtype(draft)
        shutil.rmtree(target, ignore_errors=True)
        draft.rename(target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def find_checkpoint(source: Path) -> Path:
    """The folder of verl's shards: of a run its latest step, of a step of stage 2 the actor."""
    latest = source / "latest_checkpointed_iteration.txt"
    step = source / f"global_step_{latest.read_text().strip()}" if latest.exists() else source
    for folder in (step / "actor", step):
        if (folder / "fsdp_config.json").exists():
            return folder
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
    """Name the dtype of the weights in config.json, where verl writes bfloat16 whatever they are."""
    with safe_open(next(folder.glob("*.safetensors")), "pt") as weights:
        dtype = weights.get_slice(next(iter(weights.keys()))).get_dtype()
    path = folder / "config.json"
    config = json.loads(path.read_text())
    for part in (config, config["text_config"], config["vision_config"]):
        part["dtype"] = {"F32": "float32", "BF16": "bfloat16"}[dtype]
    path.write_text(json.dumps(config, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="a training run, or one of its global_step_* folders")
    parser.add_argument("target", type=Path, help="the Hugging Face folder to write")
    arguments = parser.parse_args()
    export(arguments.source, arguments.target)
    print(f"wrote {arguments.target}")


if __name__ == "__main__":
    cli(main)

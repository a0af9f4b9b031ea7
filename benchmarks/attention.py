"""Passes over packed images and texts against unpacked ones: vision tower and language model of Qwen3-VL.

    python -m benchmarks.attention --size 2b --out FILE

The input is the 16 samples of one GPU's update in stage 1; weights are random, in bfloat16, and nothing is compiled.

- `images` times forward passes of the vision tower, which the recipe freezes: `one by one`, as transformers attends
  without the flash-attn package, and `packed`, as our engine does (`qwen3vl_rl/models/packed_attention.py`), which also
  caches position indices by image size.
- `text` times forward and backward passes of the language model: `padded` to the longest sample, `masked`, with all
  samples in one row under the mask that transformers makes, and `packed`.

Where the flash-attn package is installed, `flash-attn` is `packed` with the package's kernels instead of torch's.

The configurations of a group take turns; ratios are to its first, round by round. `device_s` is the time of a pass
during which kernels run, `peak_memory_gib` leaves out weights and gradients, and `difference` is the largest difference
of an output from the first configuration's, divided by the largest output.
"""

import argparse
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from itertools import accumulate
from pathlib import Path

import torch
from transformers import AutoProcessor, Qwen3VLForConditionalGeneration
from transformers.utils import is_flash_attn_2_available

from benchmarks.common import QWEN_SIZES, has_gpu, random_checkpoint, work_folder, write_result
from benchmarks.hf_trainer import flatten, pad, with_floats
from benchmarks.hf_trainer import images as stack_images
from benchmarks.sft_throughput import (
    SAMPLES_PER_UPDATE,
    Measurement,
    build_parquet,
    measure_group,
    read_batches,
    recipe,
    seconds_of,
)
from qwen3vl_rl.models.families.qwen3_vl import QWEN3_VL
from qwen3vl_rl.models.families.qwen3_vl.parts import pack_images
from qwen3vl_rl.models.packed_attention import NAME, pack_text, packing, register


def flash_attn_package(module, query, key, value, attention_mask, scaling, cu_seq_lens_q, max_length_q, **options):
    """The same as `packed_attention`, with the kernels of the package."""
    from flash_attn import flash_attn_varlen_func

    q, k, v = (x.squeeze(0).transpose(0, 1) for x in (query, key, value))
    longest = options.get("longest") or int(max_length_q)
    lengths = cu_seq_lens_q, cu_seq_lens_q, longest, longest
    out = flash_attn_varlen_func(q, k, v, *lengths, softmax_scale=scaling, causal=module.is_causal)
    return out.unsqueeze(0), None


register("flash_attn_package", flash_attn_package)


def packed_copies(
    model: Qwen3VLForConditionalGeneration, pack: Callable[[Qwen3VLForConditionalGeneration, str], None]
) -> dict[str, Qwen3VLForConditionalGeneration]:
    """For each configuration, a copy of `model` whose attention `pack` replaced. flash-attn has no CPU kernels."""
    installed = model.device.type == "cuda" and is_flash_attn_2_available()
    package = {"flash-attn": "flash_attn_package"} if installed else {}
    copies = {}
    for configuration, function in ({"packed": NAME} | package).items():
        copies[configuration] = deepcopy(model)
        pack(copies[configuration], function)
    return copies


class Passes:
    """One configuration for `measure_group`. `step()` makes one pass and returns its outputs, (tokens, hidden)."""

    def __init__(self, step: Callable[[], torch.Tensor]):
        self.step = step

    def run(self, steps: int) -> tuple[float, float]:
        first = float(self.step().float().abs().mean())
        return seconds_of(self.step, steps), first


def image_passes(model: Qwen3VLForConditionalGeneration, batch: list[dict]) -> dict[str, Callable[[], torch.Tensor]]:
    inputs = stack_images(batch)
    pixels, grid = inputs["pixel_values"].to(model.device, model.dtype), inputs["image_grid_thw"]
    packed = packed_copies(model, pack_images)

    @torch.no_grad()
    def step(visual: torch.nn.Module, grid_thw: torch.Tensor) -> torch.Tensor:
        return visual(pixels, grid_thw=grid_thw).pooler_output

    # transformers reads the grid on the device, our engine on the host.
    one_by_one = {"one by one": partial(step, model.model.visual, grid.to(model.device))}
    return one_by_one | {name: partial(step, copy.model.visual, grid) for name, copy in packed.items()}


def text_passes(model: Qwen3VLForConditionalGeneration, batch: list[dict]) -> dict[str, Callable[[], torch.Tensor]]:
    device, plain, packed = model.device, model.model.language_model, packed_copies(model, pack_text)
    names = ("input_ids", "position_ids", "attention_mask")
    row, rows = ({k: v for k, v in collate(batch).items() if k in names} for collate in (flatten, pad))
    places = rows["attention_mask"].flatten().nonzero().squeeze(1).to(device)
    ends = torch.tensor([0, *accumulate(len(sample["input_ids"]) for sample in batch)])

    def step(language: torch.nn.Module, inputs: dict, places: torch.Tensor | None = None) -> torch.Tensor:
        language.zero_grad()
        hidden = language(**inputs, use_cache=False).last_hidden_state.flatten(0, 1)
        hidden = hidden if places is None else hidden.index_select(0, places)
        hidden.sum().backward()
        return hidden.detach()

    def moved(inputs: dict) -> dict:
        return {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in inputs.items()}

    usual = {"padded": partial(step, plain, moved(rows), places), "masked": partial(step, plain, moved(row))}
    inputs = moved(row | packing(ends))
    return usual | {name: partial(step, copy.model.language_model, inputs) for name, copy in packed.items()}


def differences(passes: dict[str, Callable[[], torch.Tensor]]) -> list[float]:
    first, *others = [step().float() for step in passes.values()]
    return [0.0, *(float((own - first).abs().max() / first.abs().max()) for own in others)]


def compare(passes: dict[str, Callable[[], torch.Tensor]], rounds: int, seconds: float) -> list[dict]:
    found = differences(passes)
    group: list[Measurement] = measure_group(list(passes), lambda name: Passes(passes[name]), rounds, seconds)
    return [m.times(group[0]) | {"difference": d} for m, d in zip(group, found, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=QWEN_SIZES, default="2b")
    parser.add_argument("--answer-tokens", type=int, default=110, help="approximate length of the reasoning")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="duration of one round of one configuration")
    parser.add_argument("--work", type=Path, help="keep the checkpoint and data here, and reuse them")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    device = "cuda" if has_gpu() else "cpu"
    with work_folder(args.work) as work:
        checkpoint = random_checkpoint(args.size, work, device)
        processor = AutoProcessor.from_pretrained(checkpoint)
        parquet = build_parquet(work, SAMPLES_PER_UPDATE, args.answer_tokens, processor.tokenizer)
        batch = read_batches(recipe(args.size, device, checkpoint, parquet, []), processor)[0]
        batch = with_floats(batch, QWEN3_VL.prompts, processor.image_processor)
        model = Qwen3VLForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.bfloat16).to(device)
    found = {"size": args.size, "tokens": sum(len(sample["input_ids"]) for sample in batch)}
    for kind, passes in (("images", image_passes), ("text", text_passes)):
        found[kind] = compare(passes(model, batch), args.rounds, args.seconds)
        write_result(args.out, "benchmarks.attention", found)
        print(*found[kind], sep="\n", flush=True)


if __name__ == "__main__":
    main()

"""The gain of computing a prompt once for all its answers, in passes alone: Qwen3-VL with random weights in bfloat16.

    python -m benchmarks.shared_prompts --size 2b --out FILE

There are 16 prompts with a 640x480 image and 16 answers of about 101 tokens each, in micro-batches of 25,600 tokens,
with checkpointing and compiled blocks. `samples` repeats prompt and image for each answer, as verl does; `shared`
computes them once (`qwen3vl_rl/models/shared_prompts.py`). `forward` is a pass of the reference, `update` a forward and
a backward pass. The two take turns, and ratios are to `samples`. `peak_memory_gib` includes weights and gradients.

`gradient_error` compares the gradients of one prompt's answers with those in float32: for each parameter, the norm of
the difference divided by the norm of the gradient.
"""

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from transformers import Qwen3VLForConditionalGeneration

from benchmarks.common import IMAGE_PX, QWEN_SIZES, has_gpu, random_checkpoint, work_folder, write_result
from benchmarks.sft_throughput import seconds_of
from benchmarks.spread import spread, times_faster
from qwen3vl_rl.models.compiled_blocks import compile_blocks
from qwen3vl_rl.models.families.qwen3_vl.parts import blocks, image_places, pack_images, place_images
from qwen3vl_rl.models.logprobs import Scored, score_hidden
from qwen3vl_rl.models.packed_attention import pack_text, packing
from qwen3vl_rl.models.shared_prompts import Group, fill_micro_batches, lay_out

PROMPTS, ANSWERS, TEXT_TOKENS, LIMIT = 16, 16, 40, 25_600
PATCH_PX, PATCHES_OF_A_TOKEN = 16, 4
GRID = (1, IMAGE_PX[1] // PATCH_PX, IMAGE_PX[0] // PATCH_PX)
IMAGE_TOKENS = GRID[1] * GRID[2] // PATCHES_OF_A_TOKEN
WAYS = ("samples", "shared")

Micro = dict[str, object]  # inputs of the model, and the `places` and `labels` of answer tokens


def make_micro_batch(groups: Sequence[Group], way: str, config, device: str) -> Micro:
    """The inputs of one micro-batch. The first sample of each group seeds its tokens and pixels."""
    texts, pixels, answers = [], [], []
    for group in groups:
        draw = torch.Generator().manual_seed(group.samples[0])
        image = torch.full((IMAGE_TOKENS,), config.image_token_id)
        prompt = torch.cat([image, torch.randint(300, (group.prompt_tokens - len(image),), generator=draw)])
        pixels.append(torch.randn(GRID[1] * GRID[2], 3 * 2 * PATCH_PX**2, generator=draw))
        for count in group.answer_tokens:
            answers.append(torch.randint(300, (count,), generator=draw))
            texts.append(torch.cat([prompt, answers[-1]]))
    ids, positions = torch.cat(texts), torch.cat([torch.arange(len(text)) for text in texts])
    ends = torch.tensor([0, *map(len, texts)]).cumsum(0)
    places = torch.cat([torch.arange(end - len(a) - 1, end - 1) for end, a in zip(ends[1:], answers, strict=True)])
    attention = packing(ends)
    if way == "shared":
        layout = lay_out(groups)
        ids, positions, places = ids[layout.kept], positions[layout.kept], layout.places[places]
        attention = layout.attention
    copies = [1 if way == "shared" else len(group.samples) for group in groups]
    shown = torch.cat([picture.repeat(count, 1) for picture, count in zip(pixels, copies, strict=True)])
    images = image_places(ids[None], torch.tensor([GRID] * sum(copies)), config)
    inputs = {"input_ids": ids[None], "position_ids": positions.expand(3, 1, -1), "pixel_values": shown}
    micro = inputs | images | attention | {"places": places, "labels": torch.cat(answers)}
    return {name: value.to(device) if isinstance(value, torch.Tensor) else value for name, value in micro.items()}


def run(model: Qwen3VLForConditionalGeneration, micro: Micro) -> torch.Tensor:
    """The log-probabilities of all answer tokens, (tokens,)."""
    places, labels = micro["places"], micro["labels"]
    inputs = {name: value for name, value in micro.items() if name not in ("places", "labels")}
    hidden = model.model(**inputs, use_cache=False).last_hidden_state[0]
    return score_hidden(model.lm_head, hidden, Scored(places, labels, None, False))[:, 0]


def update(model: Qwen3VLForConditionalGeneration, micro_batches: Sequence[Micro]) -> None:
    model.zero_grad()
    for micro in micro_batches:
        run(model, micro).mean().neg().backward()


@torch.no_grad()
def forward(model: Qwen3VLForConditionalGeneration, micro_batches: Sequence[Micro]) -> None:
    for micro in micro_batches:
        run(model, micro)


def gradients(model: Qwen3VLForConditionalGeneration, micro: Micro) -> dict[str, torch.Tensor]:
    update(model, [micro])
    found = {name: parameter.grad.float().cpu() for name, parameter in model.named_parameters()}
    model.zero_grad()
    return found


def errors(found: dict[str, torch.Tensor], exact: dict[str, torch.Tensor]) -> dict[str, float]:
    return spread(float((found[name] - x).norm() / x.norm()) for name, x in exact.items() if x.norm() > 0)


def build(checkpoint: Path, dtype: torch.dtype, device: str) -> Qwen3VLForConditionalGeneration:
    model = Qwen3VLForConditionalGeneration.from_pretrained(checkpoint, dtype=dtype).to(device).train()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    for pack in (pack_images, pack_text, place_images):
        pack(model)
    return model


def measure(checkpoint: Path, device: str, rounds: int, prompts: int) -> dict:
    draw = torch.Generator().manual_seed(0)
    lengths = torch.randint(51, 152, (prompts, ANSWERS), generator=draw).tolist()
    samples = [range(ANSWERS * number, ANSWERS * (number + 1)) for number in range(prompts)]
    prompt = IMAGE_TOKENS + TEXT_TOKENS
    groups = [Group(tuple(own), prompt, tuple(each)) for own, each in zip(samples, lengths, strict=True)]

    model = build(checkpoint, torch.float32, device)
    config = model.config
    one = {way: make_micro_batch(groups[:1], way, config, device) for way in WAYS}
    exact = gradients(model, one["samples"])
    model = model.bfloat16()
    gradient_errors = {way: errors(gradients(model, one[way]), exact) for way in WAYS}
    del exact

    if device == "cuda":
        compile_blocks(blocks(model))
    fitting = LIMIT // (ANSWERS * (prompt + 101))
    batches = {
        "samples": [groups[first : first + fitting] for first in range(0, prompts, fitting)],
        "shared": fill_micro_batches(groups, LIMIT),
    }
    micro = {way: [make_micro_batch(batch, way, config, device) for batch in batches[way]] for way in WAYS}
    rows = []
    times: dict[tuple[str, str], list[float]] = {}
    peaks: dict[str, float] = {}
    for number in range(rounds + 1):  # the first compiles
        for way in WAYS:
            for name, step in (("update", update), ("forward", forward)):
                if device == "cuda":
                    torch.cuda.reset_peak_memory_stats()
                taken = seconds_of(partial(step, model, micro[way]), 1)
                if number:
                    times.setdefault((way, name), []).append(taken)
                if device == "cuda" and name == "update":
                    peaks[way] = round(torch.cuda.max_memory_allocated() / 2**30, 1)
    for way in WAYS:
        row = {"way": way, "micro_batches": len(micro[way]), "gradient_error": gradient_errors[way]}
        row["tokens"] = sum(batch["input_ids"].shape[1] for batch in micro[way])
        for name in ("update", "forward"):
            row[f"{name}_s"] = spread(times[way, name])
            row[f"{name}_times_faster"] = times_faster(times["samples", name], times[way, name])
        rows.append(row | ({"peak_memory_gib": peaks[way]} if peaks else {}))
    return {"prompts": prompts, "answers": ANSWERS, "rows": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=QWEN_SIZES, default="2b")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--prompts", type=int, default=PROMPTS)
    parser.add_argument("--work", type=Path, help="keep the checkpoint here, and reuse it")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    device = "cuda" if has_gpu() else "cpu"
    with work_folder(args.work) as work:
        checkpoint = random_checkpoint(args.size, work, device)
        found = measure(checkpoint, device, args.rounds, args.prompts)
    write_result(args.out, "benchmarks.shared_prompts", {"size": args.size, **found})
    print(*found["rows"], sep="\n", flush=True)


if __name__ == "__main__":
    main()

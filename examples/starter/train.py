"""Train the starter: a tiny model that detects and answers plain descriptions, but does not reason to a referent.

    python -m examples.starter.train --out DIR --workers 14                     # a Qwen3-VL, on one GPU
    python -m examples.starter.train --out DIR --workers 14 --family internvl

`tasks.py` describes the training examples. This loop is separate from sft/train.py and faster for a tiny model: samples
are not written to disk, nothing is computed per image in Python, and a step is one CUDA graph (`step.py`). After an
interruption, rerun the command to resume from `DIR/progress.pt`, with new samples.
"""

import argparse
import itertools
import json
import math
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader
from tqdm import tqdm
from transformers import AutoModelForImageTextToText, AutoProcessor

from examples.starter.batches import IGNORE, REUSE, Batches, Collator, encode_images
from examples.starter.build import build_checkpoint, read_changes
from examples.starter.internvl import build_checkpoint as build_internvl
from examples.starter.muon import Muon
from examples.starter.step import Batch, RecordedStep, fixed_images
from examples.starter.tasks import answer_example, starter_examples
from qwen3vl_rl.data.files import replacing
from qwen3vl_rl.data.refshapes import HEIGHT, WIDTH, WORLDS, World, referrals
from qwen3vl_rl.errors import InputError, cli
from qwen3vl_rl.grounding import eval_iou, parse_box_1000
from qwen3vl_rl.models.compiled_blocks import compile_blocks, restore_blocks
from qwen3vl_rl.models.families import FAMILIES, find_family
from qwen3vl_rl.models.families.interface import Parts
from qwen3vl_rl.models.families.qwen3_vl import QWEN3_VL

RAMP = 0.25  # share of the training over which the curriculum grows
WARMUP = 0.05  # share of the training over which the learning rates grow
ADAMW_LR = 1.5e-3  # for embeddings, norms and biases
SAVE_EVERY, PROGRESS = 2000, "progress.pt"  # steps between two saves; the file below --out
SCORES = "scores.json"
UNTIMED = 100  # first steps, which compile blocks, record graphs and start workers, do not count for the speed


# --- training -------------------------------------------------------------------------------------------------------


def train(
    model, processor, make_examples, *, steps: int, batch_size: int, lr: float, seed: int | str, workers: int,
    parts: int = 1, progress: dict | None = None, save=None,
) -> dict:  # fmt: skip
    """Train with warm-up, a cosine schedule and, on a GPU, bf16 autocast. Returns the last losses and the speed.

    `parts`: micro-batches per batch. `save` is called every `SAVE_EVERY` steps with the state of the run. A later call
    with this state as `progress` resumes the run.
    """
    device = model.device
    collate = Collator(processor)
    batches = Batches(collate, make_examples, seed, batch_size)
    loader = iter(DataLoader(batches, batch_size=None, num_workers=workers, pin_memory=device.type == "cuda"))
    fixed, optimizers = fixed_images(model, processor, collate.before), make_optimizers(model, lr)
    first, earlier_s = 0, 0.0
    if progress:
        first, earlier_s = progress["step"], progress["seconds"]
        model.load_state_dict(progress["model"])
        for optimizer, state in zip(optimizers, progress["optimizers"], strict=True):
            optimizer.load_state_dict(state)

    def step(batch: Batch) -> torch.Tensor:
        labelled, loss = (batch["labels"] != IGNORE).sum(), torch.zeros((), device=device)
        for part in zip(*(tensor.chunk(parts) for tensor in batch.values()), strict=True):
            # Cached casts would outlive the recorded graph, and weights are cast only once a step anyway.
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda", cache_enabled=False):
                share = fixed.loss(dict(zip(batch, part, strict=True))) / labelled
            share.backward()
            loss += share.detach()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return loss

    model.train()
    if device.type == "cuda":
        compile_blocks(parts_of(model).blocks(model))
        step = RecordedStep(step)
    losses, started, warm, waited_s = [], time.perf_counter(), None, 0.0
    bar = tqdm(range(first, steps), desc="starter", unit="step", mininterval=5, initial=first, total=steps)
    for number in bar:
        if number == first + UNTIMED:
            warm = time.perf_counter()
        scale_rates(optimizers, schedule(number, steps))
        asked = time.perf_counter()
        batch = next(loader)
        waited_s += time.perf_counter() - asked
        losses.append(step(batch))
        if number % 500 == 499:
            bar.set_postfix(loss=f"{torch.stack(losses[-100:]).mean():.3f}")
        if save and number % SAVE_EVERY == SAVE_EVERY - 1:
            states = {"model": model.state_dict(), "optimizers": [optimizer.state_dict() for optimizer in optimizers]}
            save({"step": number + 1, "seconds": earlier_s + time.perf_counter() - started} | states)
    if device.type == "cuda":
        torch.cuda.synchronize()
    end = time.perf_counter()
    restore_blocks(parts_of(model).blocks(model))
    timed = steps - first - UNTIMED if warm else steps - first
    return {
        "loss": round(torch.stack(losses[-50:]).mean().item(), 4),
        "samples": steps * batch_size,
        "samples_per_s": round(timed * batch_size / (end - (warm or started)), 1),
        "seconds": round(earlier_s + end - started, 1),
        "waited_for_data_s": round(waited_s, 1),
    }


def read_progress(path: Path, arguments: dict, device: str) -> dict | None:
    """The state that an interrupted run has saved, if any. Raises InputError if its arguments were others."""
    if not path.exists():
        return None
    progress = torch.load(path, map_location=device, weights_only=True)
    if progress["arguments"] != arguments:
        raise InputError(f"{path}: holds a run with {progress['arguments']}; choose another --out, or remove it")
    return progress


def is_finished(scores: Path, arguments: dict) -> bool:
    """Whether a run with these arguments has finished."""
    return scores.exists() and json.loads(scores.read_text())["arguments"].items() >= arguments.items()


def write_progress(path: Path, progress: dict) -> None:
    with replacing(path) as draft:
        torch.save(progress, draft)


def schedule(step: int, steps: int) -> float:
    """The factor of the learning rates: warm-up, then cosine to 0."""
    return min((step + 1) / max(1, WARMUP * steps), 0.5 * (1 + math.cos(math.pi * step / steps)))


def make_optimizers(model, lr: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of hidden layers, AdamW for the rest.

    With AdamW alone and learning rates by fan-in, the loss after 1.3 million samples was 0.158 instead of 0.064.
    """
    matrices, others = [], []
    for name, parameter in model.named_parameters():
        is_hidden = parameter.ndim == 2 and not any(part in name for part in ("embed", "lm_head"))
        (matrices if is_hidden else others).append(parameter)
    on_gpu = model.device.type == "cuda"
    adamw = torch.optim.AdamW(
        others, lr=ADAMW_LR, betas=(0.9, 0.98), weight_decay=0.01, fused=on_gpu, capturable=on_gpu
    )
    optimizers = [Muon(matrices, lr=lr), adamw]
    for optimizer in optimizers:
        for group in optimizer.param_groups:  # a recorded step reads them on the device
            group["peak"], group["lr"] = group["lr"], torch.tensor(group["lr"], device=model.device)
    return optimizers


def scale_rates(optimizers: list[torch.optim.Optimizer], factor: float) -> None:
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"].fill_(group["peak"] * factor)


# --- scores ---------------------------------------------------------------------------------------------------------


@torch.no_grad()
def score(model, processor, count: int, world: World, max_new_tokens: int = 256) -> dict[str, dict[str, float]]:
    """Greedy Acc@0.5 (strict), mean IoU and mean tokens on `count` fresh samples of every evaluation split."""
    model.eval()
    tokenizer, collate = processor.tokenizer, Collator(processor)
    fixed, device = fixed_images(model, processor, collate.before), model.device
    results = {}
    for split, kinds in world.splits.items():
        stream = referrals(f"starter-score-{split}", kinds, float("amodal" in split), world)
        drawn = list(itertools.islice(stream, count))
        prompts = [e.prompt_ids for e in collate.encode([answer_example(r) for r in drawn])]
        inputs = tokenizer.pad({"input_ids": prompts}, padding_side="left", return_tensors="pt").to(device)
        images = {k: torch.from_numpy(v).to(device) for k, v in encode_images([r.scene for r in drawn]).items()}
        output = model.generate(
            **inputs,
            **fixed.inputs(inputs["input_ids"], images),
            max_new_tokens=max_new_tokens,
            do_sample=False,
        )[:, inputs["input_ids"].shape[1] :]
        boxes = [parse_box_1000(text) for text in tokenizer.batch_decode(output, skip_special_tokens=True)]
        ious = [0.0 if b is None else eval_iou(b, r.xyxy_px, WIDTH, HEIGHT) for b, r in zip(boxes, drawn, strict=True)]
        results[split] = {
            "acc_0.5": round(100 * float(np.mean(np.array(ious) > 0.5)), 1),
            "mean_iou": round(float(np.mean(ious)), 3),
            "mean_tokens": round(float((output != tokenizer.pad_token_id).sum() / count), 1),
        }
    return results


def parts_of(model) -> Parts:
    return find_family(model.config.to_dict()).parts


def load(path: Path | str, device: str):
    model = AutoModelForImageTextToText.from_pretrained(path, dtype=torch.float32, attn_implementation="sdpa")
    model.to(device)
    parts_of(model).pack_images(model)
    return model, AutoProcessor.from_pretrained(path)


def take_vision(model, path: str) -> None:
    """Load the vision tower of another checkpoint into the model.

    The last layers of the mergers are not loaded if the language models differ in width. Raises InputError if the
    towers differ in anything else.
    """
    own = model.model.visual.state_dict()
    other = AutoModelForImageTextToText.from_pretrained(path, dtype=torch.float32).model.visual.state_dict()
    fits = {name: weight for name, weight in other.items() if name in own and weight.shape == own[name].shape}
    differing = {name for name in own.keys() | other.keys() if name not in fits}
    if odd := {name for name in differing if not ("merger" in name and "linear_fc2" in name)}:
        raise InputError(f"--vision {path}: expected a vision tower of the model's shape, it differs in {min(odd)}")
    model.model.visual.load_state_dict(own | fits)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--start", help="checkpoint to continue training from, without the curriculum")
    parser.add_argument("--vision", help="checkpoint whose vision tower to use, without the curriculum")
    parser.add_argument("--family", choices=FAMILIES, help=f"without --start (default: {QWEN3_VL.model_type})")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=JSON", help="change a field of the model")
    parser.add_argument("--world", choices=WORLDS, default="plain", help="world of RefShapes")
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--batch-size", type=int, default=512, help="twice the default learned less in the same time")
    parser.add_argument("--parts", type=int, default=1, help="micro-batches per batch, to save memory")
    parser.add_argument("--lr", type=float, default=0.01, help="learning rate of Muon; twice the default learned less")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=14, help="processes that draw scenes")
    parser.add_argument("--score", type=int, default=512, help="held-out samples per split, 0 for no scores")
    args = parser.parse_args()
    if args.start and args.vision:
        raise InputError("--vision: expected no --start, which comes with a vision tower")
    if args.start and args.family:
        raise InputError(f"--family {args.family}: expected no --start, whose checkpoint is of a family already")
    if args.family == "internvl" and (args.vision or args.set):
        raise InputError("--family internvl: expected neither --vision nor --set")
    device = "cuda" if torch.cuda.is_available() else "cpu"

    arguments = {k: v for k, v in vars(args).items() if k not in ("out", "workers", "score")}
    for name, default in (("start", None), ("family", QWEN3_VL.model_type)):  # older runs did not record them
        if arguments[name] in (None, default):
            del arguments[name]
    if is_finished(args.out / SCORES, arguments):
        print(f"{args.out}: already trained with these arguments")
        return
    progress = read_progress(args.out / PROGRESS, arguments, device)
    if args.start is None and not progress:
        if args.family == "internvl":
            build_internvl(args.out, args.seed)
        else:
            build_checkpoint(args.out, args.seed, read_changes(args.set))
    share = args.batch_size / max(1, args.workers) / REUSE  # examples that each worker draws per step
    model, processor = load(args.start or args.out, device)
    if args.vision and not progress:
        take_vision(model, args.vision)
    processor.save_pretrained(args.out)
    first = progress["step"] if progress else 0
    ramp = 0 if args.start or args.vision else int(RAMP * share * args.steps)
    run = train(
        model, processor, partial(
            starter_examples, ramp=ramp, begun=int(first * share), world=WORLDS[args.world]
        ),
        steps=args.steps, batch_size=args.batch_size, parts=args.parts, lr=args.lr,
        seed=f"{args.seed}-{first}" if first else args.seed, workers=args.workers, progress=progress,
        save=lambda found: write_progress(args.out / PROGRESS, found | {"arguments": arguments}),
    )  # fmt: skip
    report = {
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "torch": torch.__version__,
        "arguments": {k: v for k, v in vars(args).items() if k != "out"} | {"family": model.config.model_type},
        "training": run,
        "scores": score(model, processor, args.score, WORLDS[args.world]) if args.score else {},
    }
    model.to(torch.bfloat16).save_pretrained(args.out)  # half the size; whoever loads it chooses a dtype
    with replacing(args.out / SCORES) as draft:  # written last: it marks the run as finished
        draft.write_text(json.dumps(report, indent=2) + "\n")
    (args.out / PROGRESS).unlink(missing_ok=True)
    print(json.dumps(report))


if __name__ == "__main__":
    cli(main)

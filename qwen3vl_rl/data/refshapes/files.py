"""Draw samples from a seed and write their files."""

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from qwen3vl_rl.data.jsonl import write_jsonl
from qwen3vl_rl.data.refshapes.expressions import Category, Query, sample_absent, sample_query
from qwen3vl_rl.data.refshapes.scenes import HEIGHT, PLAIN, WIDTH, Scene, Shape, World, is_occluded, sample_scene
from qwen3vl_rl.data.refshapes.traces import (
    STYLES,
    absent_reasoning,
    amodal_reasoning,
    brief_reasoning,
    rationalised_reasoning,
    visible_reasoning,
)
from qwen3vl_rl.errors import InputError
from qwen3vl_rl.grounding import Box, px_to_1000, render_prompt

WISHES = 6  # number of (kind, amodal) requests that are tried on each scene


@dataclass(frozen=True, slots=True)
class Referral:
    """One sample before it is written: a scene, the query, and whether it asks for the amodal box."""

    scene_index: int
    scene: Scene
    query: Query
    amodal: bool

    @property
    def target(self) -> Shape:
        return self.scene.shapes[self.query.target]

    @property
    def xyxy_px(self) -> Box:
        return self.target.amodal_px if self.amodal else self.target.visible_px

    @property
    def reasoning(self) -> str:
        """The thorough trace."""
        return (amodal_reasoning if self.amodal else visible_reasoning)(self.scene, self.query)

    def reasoning_in(self, style: str, rng: random.Random) -> str:
        """A trace in one of `STYLES`."""
        if style == "brief":
            return brief_reasoning(self.query, rng)
        return rationalised_reasoning(self.scene, self.query, rng) if style == "rationalised" else self.reasoning


def referrals(
    seed: str, kinds: tuple[str, ...], amodal_rate: float, world: World = PLAIN, per_scene: int = 2
) -> Iterator[Referral]:
    """Yield samples endlessly, with all kinds equally often and at most `per_scene` different referents per scene.

    A request that a scene cannot fulfil is tried on the next scene, so that rare kinds keep their share. The target of
    an amodal sample is partly hidden.
    """
    rng, scene_index = random.Random(seed), 0
    wanted = [(rng.choice(kinds), rng.random() < amodal_rate) for _ in range(WISHES)]
    while True:
        scene, used = sample_scene(rng, world.objects), set()
        occluded = {i for i, shape in enumerate(scene.shapes) if is_occluded(shape)}
        for slot, (kind, amodal) in enumerate(wanted):
            if len(used) == per_scene:
                break
            if amodal and not occluded:
                continue
            query = sample_query(scene, kind, rng)
            if query is None or query.target in used or (amodal and query.target not in occluded):
                continue
            used.add(query.target)
            yield Referral(scene_index, scene, query, amodal)
            wanted[slot] = (rng.choice(kinds), rng.random() < amodal_rate)
        scene_index += bool(used)


def training_row(referral: Referral, sample_id: str, image: str) -> dict:
    """A row in the released raw training format: the prompt, and an answer with `<ref>` and a `<box>` in 0..1000."""
    xyxy_1000 = list(px_to_1000(referral.xyxy_px, WIDTH, HEIGHT))
    prompt = render_prompt("amodal" if referral.amodal else "grounding", referral.query.sent)
    row = {
        "id": sample_id,
        "image": image,
        "width": WIDTH,
        "height": HEIGHT,
        "sent": referral.query.sent,
        "kind": referral.query.kind,
        "conversations": [
            {"from": "human", "value": f"<image>\n{prompt}"},
            {"from": "gpt", "value": f"<ref>{referral.query.sent}</ref><box>{xyxy_1000}</box>"},
        ],
    }
    return row | ({"modal_bbox": list(referral.target.visible_px)} if referral.amodal else {})


def evaluation_row(referral: Referral, image: str) -> dict:
    """A row of an evaluation file, with the box in px."""
    row = {
        "image": image,
        "sent": referral.query.sent,
        "bbox": list(referral.xyxy_px),
        "width": WIDTH,
        "height": HEIGHT,
        "kind": referral.query.kind,
    }
    return row | ({"modal_bbox": list(referral.target.visible_px)} if referral.amodal else {})


def absent_row(referral: Referral, image: str, rng: random.Random) -> tuple[dict, Category]:
    """A row whose expression has no referent in the scene, for training and evaluation, and its category."""
    sent, category = sample_absent(referral.scene, rng)
    row = {"image": image, "sent": sent, "bbox": None, "width": WIDTH, "height": HEIGHT, "kind": "no_referent"}
    return row, category


def _draw(
    split: str, count: int, seed: int, kinds: tuple[str, ...], amodal_rate: float, world: World, out: Path
) -> Iterator[tuple[Referral, str]]:
    """Yield `count` referrals of a split with their image paths, and write their images."""
    folder = out / "images" / split
    folder.mkdir(parents=True, exist_ok=True)
    stream = referrals(f"{split}-{seed}", kinds, amodal_rate, world)
    last = None
    for referral in tqdm((next(stream) for _ in range(count)), total=count, desc=split, unit="sample", disable=None):
        path = folder / f"{referral.scene_index:06d}.png"
        if referral.scene_index != last:
            Image.fromarray(referral.scene.render()).save(path)
            last = referral.scene_index
        yield referral, str(path.relative_to(out / "images"))


def build(
    out: Path,
    train: int,
    val: int,
    seed: int,
    world: World = PLAIN,
    shares: Mapping[str, float] | None = None,
    *,
    amodal_traces: bool = True,
    no_referent: float = 0.0,
) -> dict[str, int]:
    """Write `train` training samples, a fifth of them amodal, and `val` samples for each evaluation split.

    `shares`: the shares of brief and of rationalised traces; the rest are thorough. `amodal_traces`: whether to write
    traces for amodal samples. Both options change only the traces. `no_referent`: the number of additional expressions
    without a referent per training and validation sample, on the same pictures. Returns the number of rows of each
    file. Raises InputError for invalid shares.
    """
    weights = style_weights(shares or {})
    if not 0 <= no_referent <= 1:
        raise InputError(f"--no-referent: expected a share from 0 to 1, got {no_referent}")
    rows, traces, rng, absent_rng = [], [], random.Random(f"styles-{seed}"), random.Random(f"absent-{seed}")
    for i, (referral, image) in enumerate(_draw("refshapes_train", train, seed, world.kinds, 0.2, world, out)):
        rows.append(training_row(referral, f"refshapes_train_{i:06d}", image))
        (style,) = rng.choices(STYLES, weights)
        trace = {"id": rows[-1]["id"], "style": style, "reasoning": referral.reasoning_in(style, rng)}
        if amodal_traces or not referral.amodal:
            traces.append(trace)
        if absent_rng.random() < no_referent:
            row, category = absent_row(referral, image, absent_rng)
            rows.append(row | {"id": f"refshapes_train_none_{i:06d}"})
            reasoning = absent_reasoning(referral.scene, category)
            traces.append({"id": rows[-1]["id"], "style": "thorough", "reasoning": reasoning})
    write_jsonl(out / "refshapes_train.jsonl", rows)
    write_jsonl(out / "refshapes_train_traces.jsonl", traces)
    counts = {"train": len(rows)}
    for split, kinds in world.splits.items():
        drawn = list(_draw(split, val, seed, kinds, 1.0 if "amodal" in split else 0.0, world, out))
        absent = (item for item in drawn if split == "refshapes_val" and absent_rng.random() < no_referent)
        rows = [*(evaluation_row(*item) for item in drawn), *(absent_row(*item, absent_rng)[0] for item in absent)]
        write_jsonl(out / "eval" / f"{split}.jsonl", rows)
        counts[split] = len(rows)
    return counts


def style_weights(shares: Mapping[str, float]) -> list[float]:
    """The share of each of `STYLES`. Traces that no other style takes are thorough."""
    whole = {"thorough": 1 - sum(shares.values())} | shares
    if min(whole.values()) < -1e-9:
        raise InputError(f"shares of traces: expected numbers from 0 to 1 with a sum of at most 1, got {dict(shares)}")
    return [max(whole.get(style, 0.0), 0.0) for style in STYLES]

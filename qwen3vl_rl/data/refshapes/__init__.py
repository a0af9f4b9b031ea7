"""RefShapes: a synthetic referring-expression world, deterministic by seed.

Scenes hold 3 to 5 coloured shapes of three sizes that may hide one another, so every object has a visible and an amodal
box. Expressions use attributes, superlatives, relations and ordinals, and each has exactly one referent. The reasoning
trace is drawn from the scene graph: it lists the candidates in the order that the expression asks for and picks one.
The world `crowded` has more objects, and ordinals among what stands on one side of another object.

    python -m qwen3vl_rl.data.refshapes --out DIR --train 3000 --val 100 --seed 0 [--world crowded]

writes what RefCOCO preparation writes: `refshapes_train.jsonl`, `refshapes_train_traces.jsonl`, `images/` and
`eval/refshapes_{val,testA,testB,amodal_val}.jsonl`.
"""

import argparse
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from qwen3vl_rl.data.jsonl import write_jsonl
from qwen3vl_rl.errors import InputError, cli
from qwen3vl_rl.grounding import Box, iou, px_to_1000, render_prompt

WIDTH, HEIGHT = 160, 128  # px; not square, so that swapped axes show; multiples of 32, so that Qwen3-VL never resizes
COLOURS = {
    "red": (220, 50, 47),
    "green": (60, 160, 70),
    "blue": (50, 100, 210),
    "yellow": (240, 200, 40),
    "purple": (140, 70, 180),
    "orange": (245, 130, 30),
}
SHAPES = ("circle", "square", "triangle", "star")
SIDES_PX = {"small": (16, 20), "medium": (27, 32), "large": (41, 48)}
BACKGROUNDS = ((245, 245, 240), (225, 230, 235), (35, 38, 45))
ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh")
MIN_VISIBLE = 0.4  # of an object's area
MARGIN_PX = 6  # between neighbours in any order that an expression relies on
MARGIN_SIDE_PX = 4
WISHES = 6  # kinds of samples that a scene is asked for


@dataclass(frozen=True, slots=True)
class World:
    """`objects`: the range of their number in a scene. `kinds` of expressions: two that look at objects one by one,
    then those that relate objects."""

    objects: tuple[int, int]
    kinds: tuple[str, ...]

    @property
    def splits(self) -> dict[str, tuple[str, ...]]:
        """The RefCOCO pattern: one mixed split, two that isolate an ability, one amodal."""
        return {
            "refshapes_val": self.kinds,
            "refshapes_testA": self.kinds[:2],
            "refshapes_testB": self.kinds[2:],
            "refshapes_amodal_val": self.kinds,
        }


PLAIN = World((3, 5), ("attribute", "superlative", "relation", "ordinal"))
WORLDS = {"plain": PLAIN, "crowded": World((5, 7), (*PLAIN.kinds, "composition"))}


@dataclass(frozen=True, slots=True)
class Shape:
    """One object; boxes are xyxy px with x2, y2 exclusive. `hidden_by` is the index of an object in front, if any."""

    size: str
    colour: str
    shape: str
    side_px: int
    amodal_px: Box
    visible_px: Box
    hidden_by: int | None

    @property
    def centre_px(self) -> tuple[float, float]:
        x1, y1, x2, y2 = self.visible_px
        return (x1 + x2) / 2, (y1 + y2) / 2


@dataclass(frozen=True, slots=True)
class Scene:
    """Objects in painting order, later ones in front. `index`: uint8 (HEIGHT, WIDTH), 0 background, i + 1 object i."""

    shapes: tuple[Shape, ...]
    background: tuple[int, int, int]
    index: np.ndarray

    def palette(self) -> np.ndarray:
        """RGB uint8 (objects + 1, 3): the colours that `index` points to."""
        return np.array([self.background, *(COLOURS[s.colour] for s in self.shapes)], dtype=np.uint8)

    def render(self) -> np.ndarray:
        """RGB uint8 (HEIGHT, WIDTH, 3)."""
        return self.palette()[self.index]


@dataclass(frozen=True, slots=True)
class Category:
    """A noun phrase; None leaves an attribute open."""

    size: str | None
    colour: str | None
    shape: str | None

    def __str__(self) -> str:
        return " ".join(word for word in (self.size, self.colour, self.shape or "shape") if word)

    def members(self, scene: Scene) -> list[int]:
        return [
            i
            for i, s in enumerate(scene.shapes)
            if (self.colour is None or s.colour == self.colour)
            and (self.shape is None or s.shape == self.shape)
            and (self.size is None or s.size == self.size)
        ]


@dataclass(frozen=True, slots=True)
class Query:
    """An expression with exactly one referent: `target` indexes `scene.shapes`. `reasoning` speaks of visible boxes."""

    kind: str
    sent: str
    target: int
    reasoning: str


@dataclass(frozen=True, slots=True)
class Order:
    superlative: str
    phrase: str
    key: Callable[[Shape], float]
    margin_px: float
    side: str | None  # "the second … from the <side>"; sizes are not counted that way


ORDERS = (
    Order("leftmost", "from left to right", lambda s: s.centre_px[0], MARGIN_PX, "left"),
    Order("rightmost", "from right to left", lambda s: -s.centre_px[0], MARGIN_PX, "right"),
    Order("topmost", "from top to bottom", lambda s: s.centre_px[1], MARGIN_PX, "top"),
    Order("bottommost", "from bottom to top", lambda s: -s.centre_px[1], MARGIN_PX, "bottom"),
    Order("largest", "from largest to smallest", lambda s: -s.side_px, MARGIN_SIDE_PX, None),
    Order("smallest", "from smallest to largest", lambda s: s.side_px, MARGIN_SIDE_PX, None),
)
LEFT_TO_RIGHT, TOP_TO_BOTTOM = ORDERS[0], ORDERS[2]
RELATIONS = {  # name: axis of the centre, sign of (target - anchor), the order in which candidates are listed
    "left of": (0, -1, LEFT_TO_RIGHT),
    "right of": (0, 1, LEFT_TO_RIGHT),
    "above": (1, -1, TOP_TO_BOTTOM),
    "below": (1, 1, TOP_TO_BOTTOM),
}


# --- scenes ---------------------------------------------------------------------------------------------------------


@cache
def stencil(shape: str, side_px: int) -> np.ndarray:
    """Boolean mask of a shape, cropped to its own extent."""
    half = side_px / 2
    y, x = (np.mgrid[0:side_px, 0:side_px] + 0.5 - half) / half
    if shape == "circle":
        mask = x**2 + y**2 <= 1
    elif shape == "square":
        mask = np.ones((side_px, side_px), dtype=bool)
    elif shape == "triangle":
        mask = np.abs(x) <= (y + 1) / 2
    else:
        angle = (
            np.abs((np.arctan2(x, -y) / (2 * np.pi) * 5 + 0.5) % 1 - 0.5) * 2 * np.pi / 5
        )  # 0 at each of five points
        inner, tip = 0.45, np.pi / 5
        edge = (
            inner * np.sin(tip) / (np.sin(tip - angle) * inner + np.sin(angle))
        )  # line from a point to an inner corner
        mask = np.hypot(x, y) <= edge
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _extent(mask: np.ndarray, x: int, y: int) -> Box:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return (float(x + columns[0]), float(y + rows[0]), float(x + columns[-1] + 1), float(y + rows[-1] + 1))


def sample_scene(rng: random.Random, objects: tuple[int, int] = PLAIN.objects) -> Scene:
    """Draw scenes until every object shows at least `MIN_VISIBLE` of its area. `objects`: the range of their number."""
    while (scene := _try_scene(rng, objects)) is None:
        pass
    return scene


def _try_scene(rng: random.Random, objects: tuple[int, int]) -> Scene | None:
    # Few colours and shapes per scene, so that several objects share a description and language has to tell them apart.
    colours, shapes = rng.sample(list(COLOURS), rng.randint(2, 3)), rng.sample(SHAPES, rng.randint(1, 3))
    index, placed = np.zeros((HEIGHT, WIDTH), dtype=np.uint8), []
    for i in range(rng.randint(*objects)):
        size, shape = rng.choice(tuple(SIDES_PX)), rng.choice(shapes)
        side = rng.randint(*SIDES_PX[size])
        mask = stencil(shape, side)
        height, width = mask.shape
        x, y = rng.randint(1, WIDTH - width - 1), rng.randint(1, HEIGHT - height - 1)
        window = index[y : y + height, x : x + width]
        if np.count_nonzero(window[mask]) > (1 - MIN_VISIBLE) * mask.sum():
            return None  # would bury what is behind it: most likely too crowded
        window[mask] = i + 1
        placed.append((size, rng.choice(colours), shape, side, mask, x, y))
    found = [_see(index, i, *item) for i, item in enumerate(placed)]
    if any(shape is None for shape in found):
        return None
    return Scene(tuple(found), rng.choice(BACKGROUNDS), index)


def _see(index, i, size, colour, shape, side, mask, x, y) -> Shape | None:
    height, width = mask.shape
    window = index[y : y + height, x : x + width]
    visible = window == i + 1
    area, full = np.count_nonzero(visible), np.count_nonzero(mask)
    if area < MIN_VISIBLE * full:
        return None
    amodal = (float(x), float(y), float(x + width), float(y + height))
    hidden_by = None if area == full else int(window[mask].max()) - 1
    return Shape(size, colour, shape, side, amodal, _extent(visible, x, y), hidden_by)


# --- expressions ----------------------------------------------------------------------------------------------------


def sample_query(scene: Scene, kind: str, rng: random.Random, tries: int = 12) -> Query | None:
    """An expression of this kind with one referent, or None where the scene offers none within `tries` draws."""
    for _ in range(tries):
        if (query := MAKERS[kind](scene, rng)) is not None:
            return query
    return None


def list_candidates(scene: Scene, category: Category, order: Order, members: list[int]) -> str:
    """The sentence that every trace is built on: `Red squares from left to right, first: [box], second: [box].`"""
    named = (f"{ORDINALS[k]}: {format_box_1000(scene.shapes[i].visible_px)}" for k, i in enumerate(members))
    return f"{str(category).capitalize()}s {order.phrase}, {', '.join(named)}."


def pick(scene: Scene, members: list[int], target: int) -> str:
    """`the second: [box]`, as the list names it."""
    return f"the {ORDINALS[members.index(target)]}: {format_box_1000(scene.shapes[target].visible_px)}"


def format_box_1000(xyxy_px: Box) -> str:
    return str(list(px_to_1000(xyxy_px, WIDTH, HEIGHT)))


def sort_members(scene: Scene, category: Category, order: Order) -> list[int] | None:
    """Members in this order; None where two stand too close to call."""
    members = sorted(category.members(scene), key=lambda i: order.key(scene.shapes[i]))
    keys = [order.key(scene.shapes[i]) for i in members]
    if any(b - a < order.margin_px for a, b in pairwise(keys)):
        return None
    return members


def sample_category(scene: Scene, rng: random.Random, sized: float = 0.4) -> Category:
    """A description that fits at least one object of the scene."""
    shape = rng.choice(scene.shapes)
    colour, noun = rng.choice(
        ((shape.colour, shape.shape), (shape.colour, shape.shape), (shape.colour, None), (None, shape.shape))
    )
    return Category(shape.size if rng.random() < sized else None, colour, noun)


def _attribute(scene: Scene, rng: random.Random) -> Query | None:
    category = sample_category(scene, rng, sized=0.7)
    found = category.members(scene)
    if len(found) != 1:
        return None
    if sort_members(scene, Category(None, category.colour, category.shape), LEFT_TO_RIGHT) is None:
        return None  # the trace needs no such order; without this check the samples of published results would change
    listed = list_candidates(scene, category, LEFT_TO_RIGHT, found)
    return Query("attribute", f"the {category}", found[0], f"{listed} The only one is {pick(scene, found, found[0])}.")


def _superlative(scene: Scene, rng: random.Random) -> Query | None:
    category, order = sample_category(scene, rng, sized=0.2), rng.choice(ORDERS)
    if order.side is None and category.size is not None:
        return None  # "the largest small circle" is not how people speak
    members = sort_members(scene, category, order)
    if members is None or len(members) < 2:
        return None
    listed = list_candidates(scene, category, order, members)
    sent = f"the {order.superlative} {category}"
    return Query(
        "superlative", sent, members[0], f"{listed} The {order.superlative} one is {pick(scene, members, members[0])}."
    )


def _ordinal(scene: Scene, rng: random.Random) -> Query | None:
    category, order = sample_category(scene, rng, sized=0.2), rng.choice([o for o in ORDERS if o.side])
    members = sort_members(scene, category, order)
    if members is None or len(members) < 3:
        return None
    k = rng.randrange(1, len(members))
    listed = list_candidates(scene, category, order, members)
    sent = f"the {ORDINALS[k]} {category} from the {order.side}"
    return Query("ordinal", sent, members[k], f"{listed} I need {pick(scene, members, members[k])}.")


def _relation(scene: Scene, rng: random.Random) -> Query | None:
    anchor, category = sample_category(scene, rng), sample_category(scene, rng, sized=0.2)
    anchors, members = anchor.members(scene), category.members(scene)
    if len(anchors) != 1 or len(members) < 2 or anchors[0] in members:
        return None
    for name in rng.sample(list(RELATIONS), len(RELATIONS)):
        order = RELATIONS[name][2]
        fits = _on_side(scene, anchors[0], members, name)
        if fits is None or len(fits) != 1:
            continue
        if (candidates := sort_members(scene, category, order)) is None:
            continue
        listed = f"{_locate(scene, anchor, anchors[0])} {list_candidates(scene, category, order, candidates)}"
        last = f"The one {name} it is {pick(scene, candidates, fits[0])}."
        return Query("relation", f"the {category} {name} the {anchor}", fits[0], f"{listed} {last}")
    return None


def _composition(scene: Scene, rng: random.Random) -> Query | None:
    """`of the circles above the star, the second from the left`: another one than the second of all circles."""
    anchor, category = sample_category(scene, rng), sample_category(scene, rng, sized=0.2)
    order = rng.choice([o for o in ORDERS if o.side])
    anchors, members = anchor.members(scene), sort_members(scene, category, order)
    if len(anchors) != 1 or members is None or len(members) < 3 or anchors[0] in members:
        return None
    for name in rng.sample(list(RELATIONS), len(RELATIONS)):
        fits = _on_side(scene, anchors[0], members, name) or []
        places = [k for k in range(1, len(fits)) if fits[k] != members[k]]
        if not places:
            continue
        k = rng.choice(places)
        listed = f"{_locate(scene, anchor, anchors[0])} {list_candidates(scene, category, order, members)}"
        counted = ", ".join(f"the {ORDINALS[members.index(i)]}" for i in fits)
        last = f"The ones {name} it, {counted}. I need {pick(scene, members, fits[k])}."
        sent = f"of the {category}s {name} the {anchor}, the {ORDINALS[k]} from the {order.side}"
        return Query("composition", sent, fits[k], f"{listed} {last}")
    return None


def _locate(scene: Scene, anchor: Category, target: int) -> str:
    return f"The {anchor} is at {format_box_1000(scene.shapes[target].visible_px)}."


def _on_side(scene: Scene, anchor: int, members: list[int], name: str) -> list[int] | None:
    """The members that this relation to the anchor fits, in their order; None where one is too close to call."""
    axis, sign, _ = RELATIONS[name]
    at = scene.shapes[anchor].centre_px[axis]
    offsets = {i: sign * (scene.shapes[i].centre_px[axis] - at) for i in members}
    if any(abs(offset) < MARGIN_PX for offset in offsets.values()):
        return None
    return [i for i in members if offsets[i] > 0]


MAKERS = {
    "attribute": _attribute,
    "superlative": _superlative,
    "relation": _relation,
    "ordinal": _ordinal,
    "composition": _composition,
}


def amodal_reasoning(scene: Scene, query: Query) -> str:
    """The trace of an amodal sample, whose target is always partly hidden, says by what."""
    front = scene.shapes[scene.shapes[query.target].hidden_by]
    return f"{query.reasoning} The {front.colour} {front.shape} hides a part of it."


# --- files ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Referral:
    """One sample before it is written: which scene, which object, and whether the amodal box is asked for."""

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
        return amodal_reasoning(self.scene, self.query) if self.amodal else self.query.reasoning


def is_occluded(shape: Shape) -> bool:
    """The hidden part changes the box noticeably."""
    return iou(shape.visible_px, shape.amodal_px) < 0.9


def referrals(
    seed: str, kinds: tuple[str, ...], amodal_rate: float, world: World = PLAIN, per_scene: int = 2
) -> Iterator[Referral]:
    """Endless samples, kinds in equal parts, at most `per_scene` different referents a scene.

    What a scene cannot offer is asked of the next one, so that rare kinds keep their share. The target of an amodal
    sample is partly hidden.
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
    """A row of the released raw training format: the prompt with `<ref>`, the answer's `<box>` in 0..1000."""
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
    row = {
        "image": image,
        "sent": referral.query.sent,
        "bbox": list(referral.xyxy_px),
        "width": WIDTH,
        "height": HEIGHT,
        "kind": referral.query.kind,
    }
    return row | ({"modal_bbox": list(referral.target.visible_px)} if referral.amodal else {})


def _draw(
    split: str, count: int, seed: int, kinds: tuple[str, ...], amodal_rate: float, world: World, out: Path
) -> Iterator[tuple[Referral, str]]:
    """`count` referrals of a split with their image paths, the images written on the way."""
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


def build(out: Path, train: int, val: int, seed: int, world: World = PLAIN) -> None:
    """Write `train` training samples, a fifth of them amodal, and `val` samples for each evaluation split."""
    rows, traces = [], []
    for i, (referral, image) in enumerate(_draw("refshapes_train", train, seed, world.kinds, 0.2, world, out)):
        rows.append(training_row(referral, f"refshapes_train_{i:06d}", image))
        traces.append({"id": rows[-1]["id"], "reasoning": referral.reasoning})
    write_jsonl(out / "refshapes_train.jsonl", rows)
    write_jsonl(out / "refshapes_train_traces.jsonl", traces)
    for split, kinds in world.splits.items():
        drawn = _draw(split, val, seed, kinds, 1.0 if "amodal" in split else 0.0, world, out)
        write_jsonl(out / "eval" / f"{split}.jsonl", [evaluation_row(*item) for item in drawn])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--train", type=int, default=3000, help="training samples")
    parser.add_argument("--val", type=int, default=100, help="samples in each evaluation split")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--world", choices=WORLDS, default="plain")
    args = parser.parse_args()
    for name in ("train", "val"):
        if getattr(args, name) < 1:
            raise InputError(f"--{name}: expected at least 1, got {getattr(args, name)}")
    build(args.out, args.train, args.val, args.seed, WORLDS[args.world])
    counts = {"train": args.train} | dict.fromkeys(WORLDS[args.world].splits, args.val)
    print(json.dumps({"out": str(args.out), "samples": counts}))


if __name__ == "__main__":
    cli(main)

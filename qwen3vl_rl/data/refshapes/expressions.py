"""Referring expressions: attributes, superlatives, relations, ordinals and compositions, each with one referent."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

from qwen3vl_rl.data.refshapes.scenes import COLOURS, SHAPES, Scene, Shape

ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh")
MARGIN_PX = 6  # minimum between neighbours in an order that an expression uses
MARGIN_SIDE_PX = 4


@dataclass(frozen=True, slots=True)
class Category:
    """A noun phrase. None means any value of that attribute."""

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
class Order:
    """A way to sort objects, by a `key` that must differ by at least `margin_px` between neighbours."""

    superlative: str
    phrase: str
    key: Callable[[Shape], float]
    margin_px: float
    side: str | None  # for "the second … from the <side>"; None for sizes


ORDERS = (
    Order("leftmost", "from left to right", lambda s: s.centre_px[0], MARGIN_PX, "left"),
    Order("rightmost", "from right to left", lambda s: -s.centre_px[0], MARGIN_PX, "right"),
    Order("topmost", "from top to bottom", lambda s: s.centre_px[1], MARGIN_PX, "top"),
    Order("bottommost", "from bottom to top", lambda s: -s.centre_px[1], MARGIN_PX, "bottom"),
    Order("largest", "from largest to smallest", lambda s: -s.side_px, MARGIN_SIDE_PX, None),
    Order("smallest", "from smallest to largest", lambda s: s.side_px, MARGIN_SIDE_PX, None),
)
LEFT_TO_RIGHT, TOP_TO_BOTTOM = ORDERS[0], ORDERS[2]
RELATIONS = {  # name: (axis of the centre, sign of target - anchor, order in which traces list the candidates)
    "left of": (0, -1, LEFT_TO_RIGHT),
    "right of": (0, 1, LEFT_TO_RIGHT),
    "above": (1, -1, TOP_TO_BOTTOM),
    "below": (1, 1, TOP_TO_BOTTOM),
}


@dataclass(frozen=True, slots=True)
class Relation:
    """A relation to another object, the `anchor`, which is `scene.shapes[anchor_index]`.

    `name` is one of RELATIONS. `fits` lists the candidates that have this relation to the anchor, in their order.
    """

    name: str
    anchor: Category
    anchor_index: int
    fits: list[int]


@dataclass(frozen=True, slots=True)
class Query:
    """An expression with exactly one referent. `target` and `candidates` index `scene.shapes`.

    The candidates are the objects that a reader compares: those of `category`, in `order`. Traces list them.
    """

    kind: str
    sent: str
    target: int
    category: Category
    order: Order
    candidates: list[int]
    relation: Relation | None = None


def sample_query(scene: Scene, kind: str, rng: random.Random, tries: int = 12) -> Query | None:
    """Draw an expression of this kind with one referent; None if `tries` draws find none in this scene."""
    for _ in range(tries):
        if (query := MAKERS[kind](scene, rng)) is not None:
            return query
    return None


def sample_absent(scene: Scene, rng: random.Random) -> tuple[str, Category]:
    """Draw an expression without a referent, and its category: that of an object with another colour or shape."""
    near = rng.choice(scene.shapes)
    others = [Category(None, colour, near.shape) for colour in COLOURS]
    others += [Category(None, near.colour, shape) for shape in SHAPES]
    category = rng.choice([other for other in others if not other.members(scene)])
    superlative = f"{rng.choice(ORDERS).superlative} " if rng.random() < 0.5 else ""
    return f"the {superlative}{category}", category


def sort_members(scene: Scene, category: Category, order: Order) -> list[int] | None:
    """The members of a category in this order; None if two neighbours are closer than the margin."""
    members = sorted(category.members(scene), key=lambda i: order.key(scene.shapes[i]))
    keys = [order.key(scene.shapes[i]) for i in members]
    if any(b - a < order.margin_px for a, b in pairwise(keys)):
        return None
    return members


def sample_category(scene: Scene, rng: random.Random, sized: float = 0.4) -> Category:
    """Draw a description that fits at least one object of the scene. `sized`: the probability of naming the size."""
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
        return None  # not needed, but removing this check would change the samples of published results
    return Query("attribute", f"the {category}", found[0], category, LEFT_TO_RIGHT, found)


def _superlative(scene: Scene, rng: random.Random) -> Query | None:
    category, order = sample_category(scene, rng, sized=0.2), rng.choice(ORDERS)
    if order.side is None and category.size is not None:
        return None  # people do not say "the largest small circle"
    members = sort_members(scene, category, order)
    if members is None or len(members) < 2:
        return None
    return Query("superlative", f"the {order.superlative} {category}", members[0], category, order, members)


def _ordinal(scene: Scene, rng: random.Random) -> Query | None:
    category, order = sample_category(scene, rng, sized=0.2), rng.choice([o for o in ORDERS if o.side])
    members = sort_members(scene, category, order)
    if members is None or len(members) < 3:
        return None
    k = rng.randrange(1, len(members))
    sent = f"the {ORDINALS[k]} {category} from the {order.side}"
    return Query("ordinal", sent, members[k], category, order, members)


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
        relation = Relation(name, anchor, anchors[0], fits)
        sent = f"the {category} {name} the {anchor}"
        return Query("relation", sent, fits[0], category, order, candidates, relation)
    return None


def _composition(scene: Scene, rng: random.Random) -> Query | None:
    """`of the circles above the star, the second from the left`, where that is not the second of all circles."""
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
        sent = f"of the {category}s {name} the {anchor}, the {ORDINALS[k]} from the {order.side}"
        relation = Relation(name, anchor, anchors[0], fits)
        return Query("composition", sent, fits[k], category, order, members, relation)
    return None


def _on_side(scene: Scene, anchor: int, members: list[int], name: str) -> list[int] | None:
    """The members that have this relation to the anchor, in their order; None if one is closer than the margin."""
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

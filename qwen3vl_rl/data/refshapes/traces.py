"""Reasoning traces generated from the scene, in three styles that annotators use.

A *thorough* trace lists the candidates in the order of the expression and picks one. A *brief* trace only names the
object to look for. A *rationalised* trace is written with the answer in view: it is consistent with the answer, but
does not derive it. A model trained on thorough traces alone leaves little for reinforcement learning to improve. With
several styles, reinforcement learning can find the style that is right most often.
"""

import random

from qwen3vl_rl.data.refshapes.expressions import LEFT_TO_RIGHT, ORDINALS, Category, Order, Query
from qwen3vl_rl.data.refshapes.scenes import HEIGHT, WIDTH, Scene
from qwen3vl_rl.grounding import Box, px_to_1000

STYLES = ("thorough", "brief", "rationalised")
BRIEF = ("I look for {sent}.", "I need to find {sent}.", "I have to find {sent} in the picture.")
RATIONALISED = (
    "I can see {sent} {place} of the picture.",
    "There is {sent} {place} of the picture, and it fits well.",
    "Looking {place} of the picture, I find {sent}.",
)
PLACES = (  # thirds of a picture: rows from top to bottom, columns from left to right
    ("in the upper left", "at the top", "in the upper right"),
    ("on the left", "in the middle", "on the right"),
    ("in the lower left", "at the bottom", "in the lower right"),
)


def visible_reasoning(scene: Scene, query: Query) -> str:
    """The trace of a sample that asks for the visible box."""
    listed = list_candidates(scene, query.category, query.order, query.candidates)
    picked = pick(scene, query.candidates, query.target)
    if query.kind == "attribute":
        return f"{listed} The only one is {picked}."
    if query.kind == "superlative":
        return f"{listed} The {query.order.superlative} one is {picked}."
    if query.kind == "ordinal":
        return f"{listed} I need {picked}."
    relation = query.relation
    located = f"The {relation.anchor} is at {format_box_1000(scene.shapes[relation.anchor_index].visible_px)}."
    if query.kind == "relation":
        return f"{located} {listed} The one {relation.name} it is {picked}."
    counted = ", ".join(f"the {ORDINALS[query.candidates.index(i)]}" for i in relation.fits)
    return f"{located} {listed} The ones {relation.name} it, {counted}. I need {picked}."


def amodal_reasoning(scene: Scene, query: Query) -> str:
    """The trace of an amodal sample. It also names the object that hides a part of the target."""
    front = scene.shapes[scene.shapes[query.target].hidden_by]
    return f"{visible_reasoning(scene, query)} The {front.colour} {front.shape} hides a part of it."


def brief_reasoning(query: Query, rng: random.Random) -> str:
    return rng.choice(BRIEF).format(sent=noun_phrase(query.sent))


def rationalised_reasoning(scene: Scene, query: Query, rng: random.Random) -> str:
    place = name_place(scene.shapes[query.target].centre_px)
    return rng.choice(RATIONALISED).format(sent=noun_phrase(query.sent), place=place)


def absent_reasoning(scene: Scene, category: Category) -> str:
    """The thorough trace of an expression without a referent: it lists all objects of the named shape."""
    alike = Category(None, None, category.shape)
    members = sorted(alike.members(scene), key=lambda i: LEFT_TO_RIGHT.key(scene.shapes[i]))
    if not members:
        return f"There is no {category.shape} in the picture."
    return f"{list_candidates(scene, alike, LEFT_TO_RIGHT, members)} None of them is {category.colour}."


def noun_phrase(sent: str) -> str:
    """Move the group in `of the circles above the star, the second from the left` to the end; keep other texts."""
    group, comma, one = sent.partition(", ")
    return f"{one} {group}" if comma else sent


def name_place(centre_px: tuple[float, float]) -> str:
    """The name in `PLACES` for a point."""
    x, y = centre_px
    return PLACES[int(3 * y / HEIGHT)][int(3 * x / WIDTH)]


def list_candidates(scene: Scene, category: Category, order: Order, members: list[int]) -> str:
    """The sentence at the core of thorough traces: `Red squares from left to right, first: [box], second: [box].`"""
    named = (f"{ORDINALS[k]}: {format_box_1000(scene.shapes[i].visible_px)}" for k, i in enumerate(members))
    return f"{str(category).capitalize()}s {order.phrase}, {', '.join(named)}."


def pick(scene: Scene, members: list[int], target: int) -> str:
    """`the second: [box]`, as `list_candidates` names it."""
    return f"the {ORDINALS[members.index(target)]}: {format_box_1000(scene.shapes[target].visible_px)}"


def format_box_1000(xyxy_px: Box) -> str:
    return str(list(px_to_1000(xyxy_px, WIDTH, HEIGHT)))

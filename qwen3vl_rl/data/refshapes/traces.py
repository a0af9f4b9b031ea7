"""Reasoning traces, drawn from the scene: they list the candidates in the order of the expression and pick one."""

from qwen3vl_rl.data.refshapes.expressions import ORDINALS, Category, Order, Query
from qwen3vl_rl.data.refshapes.scenes import HEIGHT, WIDTH, Scene
from qwen3vl_rl.grounding import Box, px_to_1000


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
    """The trace of an amodal sample. Its target is partly hidden, and the trace says by what."""
    front = scene.shapes[scene.shapes[query.target].hidden_by]
    return f"{visible_reasoning(scene, query)} The {front.colour} {front.shape} hides a part of it."


def list_candidates(scene: Scene, category: Category, order: Order, members: list[int]) -> str:
    """The sentence that every trace is built on: `Red squares from left to right, first: [box], second: [box].`"""
    named = (f"{ORDINALS[k]}: {format_box_1000(scene.shapes[i].visible_px)}" for k, i in enumerate(members))
    return f"{str(category).capitalize()}s {order.phrase}, {', '.join(named)}."


def pick(scene: Scene, members: list[int], target: int) -> str:
    """`the second: [box]`, as the list names it."""
    return f"the {ORDINALS[members.index(target)]}: {format_box_1000(scene.shapes[target].visible_px)}"


def format_box_1000(xyxy_px: Box) -> str:
    return str(list(px_to_1000(xyxy_px, WIDTH, HEIGHT)))

"""RefShapes: a synthetic data set of referring expressions, deterministic by seed.

`scenes` draws objects, `expressions` refers to one of them, `traces` explains how to find it, `files` writes samples.
"""

from qwen3vl_rl.data.refshapes.expressions import (
    MAKERS,
    ORDERS,
    ORDINALS,
    Category,
    Order,
    sample_category,
    sample_query,
    sort_members,
)
from qwen3vl_rl.data.refshapes.files import Referral, build, evaluation_row, referrals
from qwen3vl_rl.data.refshapes.scenes import HEIGHT, PLAIN, WIDTH, WORLDS, Scene, World, sample_scene
from qwen3vl_rl.data.refshapes.traces import format_box_1000, list_candidates, pick

__all__ = [
    "HEIGHT",
    "MAKERS",
    "ORDERS",
    "ORDINALS",
    "PLAIN",
    "WIDTH",
    "WORLDS",
    "Category",
    "Order",
    "Referral",
    "Scene",
    "World",
    "build",
    "evaluation_row",
    "format_box_1000",
    "list_candidates",
    "pick",
    "referrals",
    "sample_category",
    "sample_query",
    "sample_scene",
    "sort_members",
]

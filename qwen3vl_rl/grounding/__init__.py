"""What a box, an answer and a prompt are: pure functions that every stage shares."""

from qwen3vl_rl.errors import InputError, cli, row_error
from qwen3vl_rl.grounding.boxes import (
    Box,
    IntBox,
    answer_px_to_1000,
    box_1000_to_px,
    eval_iou,
    iou,
    order_corners,
    px_to_1000,
    reward_iou,
    scale_to_px,
    xywh_to_xyxy,
    xyxy_to_xywh,
)
from qwen3vl_rl.grounding.parse import (
    COORDINATES,
    PARSERS,
    RELATIVE_1000,
    answer_box_px,
    answer_numbers,
    parse_box_1000,
    parser_name,
)
from qwen3vl_rl.grounding.prompts import PLAIN, PROMPTS, TURNS, answer_text, render_prompt, render_turn, target_text

__all__ = [
    "COORDINATES",
    "PARSERS",
    "PLAIN",
    "PROMPTS",
    "RELATIVE_1000",
    "TURNS",
    "Box",
    "InputError",
    "IntBox",
    "answer_box_px",
    "answer_numbers",
    "answer_px_to_1000",
    "answer_text",
    "box_1000_to_px",
    "cli",
    "eval_iou",
    "iou",
    "order_corners",
    "parse_box_1000",
    "parser_name",
    "px_to_1000",
    "render_prompt",
    "render_turn",
    "reward_iou",
    "row_error",
    "scale_to_px",
    "target_text",
    "xywh_to_xyxy",
    "xyxy_to_xywh",
]

"""The functions that the tasks of `evaluation/lmms_eval.py` name; lmms-eval imports them from here."""

from collections.abc import Mapping, Sequence
from typing import Any

from PIL.Image import Image

from qwen3vl_rl.data.pictures import open_picture
from qwen3vl_rl.evaluation.lmms_eval import METRIC
from qwen3vl_rl.grounding import RELATIVE_1000, answer_box_px, declines, iou, render_prompt

Doc = Mapping[str, Any]  # a row that `write_tasks` wrote


def doc_to_visual(doc: Doc) -> list[Image]:
    return [open_picture(doc["path"])]


def doc_to_text(doc: Doc, lmms_eval_specific_kwargs: Mapping | None = None) -> str:
    return render_prompt(doc["prompt"], doc["sent"])


def process_results(doc: Doc, results: Sequence[str]) -> dict[str, dict]:
    box = answer_box_px(results[0], "strict", RELATIVE_1000, doc["width"], doc["height"])
    truth = doc["bbox"]
    right = (iou(box, truth) > 0.5 if box else False) if truth else box is None or declines(results[0])
    return {METRIC: {"key": doc["key"], "hit": right}}


def accuracy(results: Sequence[Mapping]) -> float:
    """Acc@0.5 of a split, 0..1."""
    return sum(found["hit"] for found in results) / len(results)

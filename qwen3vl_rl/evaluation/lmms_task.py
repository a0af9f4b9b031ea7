"""Functions that lmms-eval imports for the tasks that `evaluation/lmms_eval.py` writes."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from PIL.Image import Image

from qwen3vl_rl.data.pictures import open_picture
from qwen3vl_rl.data.predictions import THRESHOLD_IOU
from qwen3vl_rl.evaluation.lmms_eval import METRIC
from qwen3vl_rl.grounding import RELATIVE_1000, answer_box_px, iou, render_prompt

Doc = Mapping[str, Any]  # a row that `write_tasks` wrote


def doc_to_visual(doc: Doc) -> list[Image]:
    return [open_picture(doc["path"])]


def doc_to_text(doc: Doc, lmms_eval_specific_kwargs: Mapping | None = None) -> str:
    return render_prompt(doc["prompt"], doc["sent"])


def process_results(doc: Doc, results: Sequence[str]) -> dict[str, dict]:
    box = answer_box_px(results[0], "strict", RELATIVE_1000, doc["width"], doc["height"])
    hit = None if doc["bbox"] is None else bool(box) and iou(box, doc["bbox"]) > THRESHOLD_IOU
    return {METRIC: {"key": doc["key"], "hit": hit}}


def accuracy(results: Sequence[Mapping]) -> float:
    """Acc@0.5 of a split, 0..1, without the rows that have no referent."""
    return fmean(found["hit"] for found in results if found["hit"] is not None)

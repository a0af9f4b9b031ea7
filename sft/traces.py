"""Reasoning traces: the checks that they must pass, and their files.

Accepted traces are jsonl rows with `id`, `sample_hash`, `reasoning` and the cost. Rejected ones are in
`NAME.rejected.jsonl` next to them, with the check that they failed. Both files grow row by row. A sample has at most
one accepted trace, and one row per rejected trace. `sample_hash` identifies the sample behind the id: a trace of
another sample under the same id is an error.
"""

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from qwen3vl_rl.data.expressions import MEDIA_MARKS, SPECIAL_TOKENS
from qwen3vl_rl.data.files import lock
from qwen3vl_rl.data.jsonl import append_row, cut_torn_row, read_jsonl
from qwen3vl_rl.data.samples import Sample
from qwen3vl_rl.errors import InputError, row_error
from qwen3vl_rl.grounding import iou, parse_box_1000, px_to_1000

WORDS = (5, 120)  # a generous range for one or two sentences
CUT_OFF = frozenset({"length", "content_filter", "abort", "error"})  # finish reasons of incomplete texts
MIN_BOX_IOU = 0.5  # of a box in a trace with the true box; the paper's threshold for a correct box

# Texts that would break the answer or the row: the end of the reasoning, special tokens, the fence around the box, and
# verl's placeholders for images.
MARKS = ("think>", "<|", "```", *MEDIA_MARKS, *(token for token in SPECIAL_TOKENS if "|" not in token))

_NO_WORD = re.compile(r"\W+")
# Phrases that reveal that a box was drawn, or that the answer was known.
_LEAK = re.compile(
    r"""(?<!\bwith\sa\s)(?<!\bwith\sthe\s)\bgreen[\s-]+(?:(?:bounding|outlined?|rectangular)\s+)?
        (?:box|rectangle|outlin(?:e|ing)|frame|border|contour|line|highlight)
    |\bin(?:side)?\s+(?:the|a)\s+green\s+square\b
    |\b(?:outlined|highlighted|boxed|framed)\s+(?:in\s+green|target|object|region|area|person|man|woman|boy|girl|child
        |animal|item|one|thing|figure|shape)
    |\b(?:target|answer|location)\s+(?:is|was)\s+(?:already\s+)?(?:given|known|provided|specified)
    |\b(?:inside|within)\s+the\s+(?:rectangle|box|frame)\b
    |\bthe\s+(?:user|prompt|question)\s+(?:wants|asks|says|gives|provides|specifies)\b|\bthe\s+model\s+would\b
    |\b(?:bounding|drawn|highlighted|marked|annotated|given|provided|indicated|specified)\s+
        (?:box|rectangle|outline|frame|target|coordinates?|region|area)\b
    |\b(?:ground[\s-]?truth|annotations?|coordinates?|bbox(?:_2d)?)\b
    |\b(?:is|was|are|were)\s+(?:already\s+)?(?:highlighted|annotated|boxed|outlined)\b
    |\b(?:highlighted|marked|circled|enclosed|outlined|drawn)\s+(?:in|with|by)\s+(?:the\s+|a\s+)?(?:green|box|rectangle|outline)\b
    |\b(?:inside|within)\s+the\s+outline\b|\bbox\s+(?:drawn\s+)?around\b
    |\b(?:given|told|shown|provided|known)\s+to\s+(?:me|us)\b
    |\b(?:(?:i|we)\s+(?:was|were|am|are)\s+(?:told|given)|as\s+(?:given|provided|specified|instructed))\b""",
    re.IGNORECASE | re.VERBOSE,
)
_REFUSAL = re.compile(
    r"""^\W*i\s+can(?:'t|not|\s+not)\b
    |\b(?:i(?:'m|\s+am)\s+(?:sorry|unable|not\s+able)|i\s+apologi[sz]e|as\s+an\s+ai\b
    |(?:cannot|can't|can\s+not|unable\s+to)\s+(?:assist|help|comply|process|provide|answer|identify|determine|see\s+(?:the|an|any)\s+image|view|access)
    |analysis\s+failed)""",
    re.IGNORECASE | re.VERBOSE,
)


def _truncated(text: str, sample: Sample, finish_reason: str | None) -> bool:
    return finish_reason in CUT_OFF


def _empty(text: str, sample: Sample, finish_reason: str | None) -> bool:
    return not _NO_WORD.sub("", text)


def _tags(text: str, sample: Sample, finish_reason: str | None) -> bool:
    return any(mark in text for mark in MARKS)


def _refusal(text: str, sample: Sample, finish_reason: str | None) -> bool:
    return bool(_REFUSAL.search(text.replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")))


def _length(text: str, sample: Sample, finish_reason: str | None) -> bool:
    return not WORDS[0] <= len(text.split()) <= WORDS[1]


def _leak(text: str, sample: Sample, finish_reason: str | None) -> bool:
    """The expression does not count, since it may mention a green box."""
    return bool(_LEAK.search(re.sub(re.escape(sample.sent), " ", text, flags=re.IGNORECASE)))


def _box(text: str, sample: Sample, finish_reason: str | None) -> bool:
    box = parse_box_1000(text)
    if box is None or sample.xyxy_px is None:  # without a referent, a trace may locate other objects
        return False
    return iou(box, px_to_1000(sample.xyxy_px, sample.width, sample.height)) < MIN_BOX_IOU


# In the order in which they run. A rejected trace gets the name of the first check that it fails.
CHECKS: Mapping[str, Callable[[str, Sample, str | None], bool]] = MappingProxyType(
    {
        "truncated": _truncated,
        "empty": _empty,
        "tags": _tags,
        "refusal": _refusal,
        "length": _length,
        "leak": _leak,
        "box": _box,
    }
)


def failed_check(text: str, sample: Sample, finish_reason: str | None = "stop") -> str | None:
    """The name of the first check that a trace fails, None if it passes all of them."""
    return next((name for name, fails in CHECKS.items() if fails(text, sample, finish_reason)), None)


def sample_hash(sample: Sample) -> str:
    """Hash of expression, image and box. An id alone is often just a file name and a row number."""
    return hashlib.sha256(repr((sample.sent, sample.image, sample.xyxy_px)).encode()).hexdigest()[:16]


def hash_in(row: dict) -> str | None:
    """The `sample_hash` of a trace's row, None if it has none. Earlier versions named the field `of`."""
    return row.get("sample_hash", row.get("of"))


@dataclass(frozen=True, slots=True)
class Trace:
    reasoning: str
    sample_hash: str | None  # None: the row does not identify its sample

    def fits(self, sample: Sample) -> bool:
        return self.sample_hash in (None, sample_hash(sample))


def read_traces(path: Path) -> dict[str, Trace]:
    """Traces by sample id. Raises InputError for a row that is malformed or would break the answer's format."""
    traces = {}
    for number, row in enumerate(read_jsonl(path), start=1):
        reasoning = row.get("reasoning")
        if not isinstance(row.get("id"), str) or row["id"] in traces:
            raise row_error(path, number, "id", "a sample's id that no earlier row has", row.get("id"))
        if not isinstance(reasoning, str) or not reasoning.strip() or any(mark in reasoning for mark in MARKS):
            expected = f"a text without {', '.join(MARKS)}"
            raise row_error(path, number, "reasoning", expected, reasoning)
        traces[row["id"]] = Trace(reasoning.strip(), hash_in(row))
    return traces


class RowFile:
    """A jsonl file to which one process appends rows, and whose writer may be killed at any time.

    A row is on disk when `append` returns. Opening removes an incomplete last row, and raises InputError if another
    process writes the file. `ids` are those of the samples in the file.
    """

    def __init__(self, path: Path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a", encoding="utf-8")
            lock(self._file.fileno(), path)
        except OSError as error:
            raise InputError(f"{path}: expected a file that can be written ({error.strerror})") from None
        cut_torn_row(path)
        self.rows = read_jsonl(path)
        self.ids = {row.get("id") for row in self.rows}

    def append(self, row: dict) -> None:
        append_row(self._file, row)
        self.ids.add(row["id"])

    def close(self) -> None:
        self._file.close()

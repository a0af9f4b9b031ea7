"""Convert samples and reasoning to the SFT parquet that `sft.dataset` reads.

    python -m sft.build_dataset --samples train.jsonl --traces traces.jsonl --images DIR --processor MODEL --out FILE
    python -m sft.build_dataset --samples train.jsonl --traces some.jsonl --untraced direct …    # the others directly
    python -m sft.build_dataset --samples train.jsonl --reasoning none …     # direct answers for all, for ablations
    python -m sft.build_dataset --samples cot.jsonl --reasoning cot …        # the released conversations
    python -m sft.build_dataset --samples gpt_answers --reasoning cot …      # analysis_*.json of the released generator

A row of the parquet holds `messages` (user: `<image>` and the prompt; assistant: reasoning, `</think>`, the answer) and
`images` (one absolute path). Traces are jsonl rows with `id` and `reasoning`. The gpt turn of a released conversation
is split at `</think>`: the box is read from the answer, and the checks of `sft.traces` apply to the reasoning. The
expression comes from the human turn, since the released labels do not escape quotation marks. The label must agree.

With `--processor`, rows are checked with the model's chat template. The assistant's turn must start where generation
starts, in the open `<think>` block, and only this turn may have loss. The first --check-rows rows are compared token by
token. No row may be longer than --max-length tokens. Samples that are left out are counted, and listed with the reason
in `NAME.left_out.jsonl`. Nothing is ever truncated.
"""

import argparse
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import pyarrow as pa

from qwen3vl_rl.data.boxes import check_box_1000
from qwen3vl_rl.data.expressions import check_label, check_tokens, read_prompt
from qwen3vl_rl.data.jsonl import iter_lines, parse_line, write_jsonl
from qwen3vl_rl.data.parquet import (
    add_arguments,
    add_no_referent_argument,
    parse_rows,
    select_samples,
    user_turn,
    write_rows,
)
from qwen3vl_rl.data.samples import ImageCheck, Sample, conversation_turn, parse_sample
from qwen3vl_rl.errors import InputError, cli, row_error
from qwen3vl_rl.grounding import AMODAL_PROMPTS, BOTH_BOXES, PLAIN, parse_box_1000, px_to_1000, scale_to_px, target_text
from sft.token_check import TokenCheck
from sft.traces import failed_check, read_traces

SFT_SCHEMA = pa.schema(
    {
        "messages": pa.list_(pa.struct({"role": pa.string(), "content": pa.string()})),
        "images": pa.list_(pa.string()),
    }
)

Reasoned = tuple[Sample, str | None]  # None: no trace


def sft_row(sample: Sample, reasoning: str, images: Path, prompts: str = PLAIN) -> dict:
    """One conversation. The assistant's turn is `grounding.target_text`, with boxes in 0..1000."""
    visible_px = sample.modal_xyxy_px if prompts == BOTH_BOXES else None
    boxes_1000 = [box and px_to_1000(box, sample.width, sample.height) for box in (sample.xyxy_px, visible_px)]
    target = target_text(reasoning, boxes_1000[0], sample.sent, boxes_1000[1])
    messages = [user_turn(sample, prompts), {"role": "assistant", "content": target}]
    return {"messages": messages, "images": [str((images / sample.image).resolve())]}


def reasoned_samples(args: argparse.Namespace, own_tokens: Sequence[str] = ()) -> Iterator[Reasoned]:
    """The selected samples with their reasoning.

    Raises InputError for bad rows and images, and for a text that contains one of the tokenizer's `own_tokens`.
    """
    for path, number, sample, reasoning in _located(args):
        check_tokens(path, number, "sent", sample.sent, own_tokens)
        check_tokens(path, number, "reasoning", reasoning or "", own_tokens)
        yield sample, reasoning


def _located(args: argparse.Namespace) -> Iterator[tuple[Path, int, Sample, str | None]]:
    if args.reasoning == "cot" and args.no_referent:
        raise InputError("--no-referent: expected --reasoning traces or none; released conversations have a box each")
    if args.reasoning == "cot":
        yield from read_conversations(args)
        return
    if args.reasoning == "traces" and args.traces is None:
        raise InputError("--traces: expected a file, or --reasoning none or cot")
    if args.reasoning == "none":
        yield from ((*located, "") for located in select_samples(args))
        return
    traces, untraced = read_traces(args.traces), "" if args.untraced == "direct" else None
    unused = dict.fromkeys(traces)
    for path, number, sample in select_samples(args):
        trace = traces.get(sample.id)
        if trace and sample.id not in unused:
            raise row_error(path, number, "id", "a unique id, since a trace belongs to one sample", sample.id)
        if trace and not trace.fits(sample):
            raise row_error(path, number, "id", f"the sample that its trace in {args.traces} was made for", sample.id)
        unused.pop(sample.id, None)
        yield path, number, sample, trace.reasoning if trace else untraced
    if unused:
        print(f"{args.traces}: {len(unused)} traces of samples that were not chosen, such as {next(iter(unused))}")


def read_conversations(args: argparse.Namespace) -> Iterator[tuple[Path, int, Sample, str]]:
    """Released conversations (`…_cot_subset.jsonl`): rows of the raw format whose gpt turn is the training target."""
    start, end = parse_rows(args.rows)
    images = ImageCheck(args.images) if args.check_images else None
    for given in args.samples:
        rows = read_answers(given) if given.is_dir() else _read_rows(given)
        for path, number, sample, reasoning in islice(rows, start, end):
            if images:
                images.check(path, number, sample)
            yield path, number, sample, reasoning


def _read_rows(path: Path) -> Iterator[tuple[Path, int, Sample, str]]:
    for number, line in iter_lines(path):
        yield path, number, *parse_conversation(path, number, parse_line(path, number, line))


def read_answers(folder: Path) -> Iterator[tuple[Path, int, Sample, str]]:
    """Files of the released generator: `analysis_*.json`, each with one sample and its trace. Raises InputError."""
    files = sorted(folder.glob("analysis_*.json"))
    if not files:
        raise InputError(f"{folder}: expected analysis_*.json in the folder, found none")
    for path in files:
        yield path, 1, *parse_answer(path, parse_line(path, 1, path.read_bytes()))


def parse_answer(path: Path, row: dict) -> tuple[Sample, str]:
    """Sample and reasoning of one file of the released generator. Raises InputError naming file and field."""
    for name, kind, expected in (
        ("gpt_analysis", str, "the reasoning"),
        ("image_width", int, "the image's width in px"),
        ("image_height", int, "the image's height in px"),
    ):
        if type(row.get(name)) is not kind or row[name] in ("", 0):
            raise row_error(path, 1, name, expected, row.get(name))
    size = row["image_width"], row["image_height"]
    box = check_box_1000(path, 1, "gt_bbox_normalized", row.get("gt_bbox_normalized"), *size)
    known = {"id": row.get("index"), "image": row.get("image_path"), "sent": row.get("question")}
    known |= {"width": size[0], "height": size[1], "bbox": scale_to_px(box, *size)}
    return parse_sample(path, 1, known), row["gpt_analysis"].strip()


def parse_conversation(path: Path, number: int, row: dict) -> tuple[Sample, str]:
    """Sample and reasoning of one released conversation. Raises InputError naming file, row and field."""
    text, asked = (conversation_turn(path, number, row, speaker) for speaker in ("gpt", "human"))
    reasoning, separator, answer = text.partition("</think>")
    box = parse_box_1000(answer)
    if not separator or box is None or answer.count("bbox_2d") > 1:
        expected = "a gpt turn of reasoning, </think> and an answer with one bbox_2d and label"
        raise row_error(path, number, "conversations", expected, text)
    prompt_name, sent = read_prompt(path, number, "conversations", asked)
    check_label(path, number, "conversations", answer, sent)
    sides = (row.get("width"), row.get("height")) * 2
    in_px = [v * side / 1000 for v, side in zip(box, sides, strict=True) if type(side) is int]
    known = {name: row[name] for name in ("id", "image", "width", "height", "modal_bbox") if name in row}
    if (prompt_name in AMODAL_PROMPTS) != ("modal_bbox" in known):
        expected = "modal_bbox if and only if the human turn asks for the amodal box"
        raise row_error(path, number, "conversations", expected, row.get("modal_bbox"))
    sample = parse_sample(path, number, known | {"sent": sent, "bbox": in_px})
    return sample, reasoning.removeprefix("<think>").strip()


class Selection:
    """Turns samples into rows, and records those that it leaves out."""

    def __init__(self, images: Path, check: TokenCheck | None, judge: bool, prompts: str):
        """`judge`: apply the checks of `sft.traces` to the reasoning; `prompts`: a key of `TURNS`."""
        self.images, self.check, self.judge, self.prompts = images, check, judge, prompts
        self.left_out: list[dict[str, str]] = []

    def rows(self, samples: Iterable[Reasoned]) -> Iterator[dict]:
        for sample, reasoning in samples:
            if (row := self._row(sample, reasoning)) is not None:
                yield row

    def _row(self, sample: Sample, reasoning: str | None) -> dict | None:
        if reasoning is None:
            return self._leave_out(sample, "no trace")
        if self.judge and (name := failed_check(reasoning, sample)):
            return self._leave_out(sample, f"reasoning: {name}")
        row = sft_row(sample, reasoning, self.images, self.prompts)
        if self.check and (length := self.check.length(row, sample.width, sample.height)) > self.check.max_length:
            return self._leave_out(sample, "too long", tokens=length)
        return row

    def _leave_out(self, sample: Sample, why: str, **details: int) -> None:
        self.left_out.append({"id": sample.id, "why": why, **details})

    def summary(self) -> str:
        counts = Counter(row["why"] for row in self.left_out)
        return "; left out: " + (", ".join(f"{count} {why}" for why, count in counts.most_common()) or "none")


def build(args: argparse.Namespace) -> None:
    check = TokenCheck(args.processor, args.max_length) if args.processor else None
    if args.check_rows < 0:
        raise InputError(f"--check-rows: expected at least 0, got {args.check_rows}")
    selection = Selection(args.images, check, judge=args.reasoning == "cot", prompts=args.prompts)
    rows = selection.rows(reasoned_samples(args, check.own_tokens if check else ()))
    if check:
        rows = check.checked(rows, SFT_SCHEMA, args.check_rows)
    left_out = args.out.with_name(f"{args.out.stem}.left_out.jsonl")
    try:
        count = write_rows(args.out, at_least_one(rows, selection), SFT_SCHEMA)
    except NoRowLeft:  # the list has the reasons; after other errors, the list of the earlier output stays
        write_jsonl(left_out, selection.left_out)
        raise
    write_jsonl(left_out, selection.left_out)
    note = "" if check else "; tokens not checked (no --processor)"
    print(f"{args.out}: {count} rows{selection.summary()}{note}")


class NoRowLeft(InputError):
    """All samples were left out."""


def at_least_one(rows: Iterable[dict], selection: Selection) -> Iterator[dict]:
    """`rows` unchanged. Raises NoRowLeft if there are none."""
    rows = iter(rows)
    first = next(rows, None)
    if first is None:
        raise NoRowLeft(f"no row is left{selection.summary()}")
    yield first
    yield from rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    add_no_referent_argument(parser)
    parser.add_argument("--reasoning", choices=("traces", "cot", "none"), default="traces")
    parser.add_argument("--traces", type=Path)
    parser.add_argument(
        "--untraced", choices=("leave-out", "direct"), default="leave-out", help="samples without trace"
    )
    parser.add_argument("--processor", metavar="MODEL", help="the checkpoint to train, to check tokens and lengths")
    parser.add_argument("--max-length", type=int, default=8192, help="in tokens per row (recipe: 8192)")
    parser.add_argument("--check-rows", type=int, default=64, help="rows to compare token by token")
    build(parser.parse_args())


if __name__ == "__main__":
    cli(main)

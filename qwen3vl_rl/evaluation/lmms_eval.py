"""Run our splits in lmms-eval, and bring lmms-eval's answers into our tables. Formats are those of lmms-eval 0.7.3.

    python -m qwen3vl_rl.evaluation.lmms_eval task --data DIR --images DIR --out TASKS     one task per split
    PYTHONPATH=. python -m lmms_eval --include_path TASKS --tasks egm_refcoco_val --log_samples --output_path LOGS …
    python -m qwen3vl_rl.evaluation.lmms_eval read LOGS/…samples_*.jsonl --data DIR --images DIR --out predictions.jsonl
    python -m qwen3vl_rl.evaluation.protocols predictions.jsonl

`read` takes the samples of our tasks and of lmms-eval's own `refcoco_grounding` and `refcoco*_bbox_rec`. Samples of the
latter name no image, so they are matched with rows of `--data` by split, sentences and box. Those without a match are
skipped and counted: lmms-eval's `val` of RefCOCO and RefCOCOg also holds samples of another partition.
"""

import argparse
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import groupby
from math import inf
from pathlib import Path
from typing import Any

import yaml

from qwen3vl_rl.data.boxes import is_box
from qwen3vl_rl.data.files import replacing
from qwen3vl_rl.data.jsonl import iter_lines, parse_line, write_jsonl
from qwen3vl_rl.data.layouts.record import EDGE_PX
from qwen3vl_rl.data.predictions import Prediction, Question, score
from qwen3vl_rl.data.samples import Sample, sample_row
from qwen3vl_rl.errors import InputError, cli, row_error
from qwen3vl_rl.evaluation.protocols.readings import NORMALISED_AT_MOST
from qwen3vl_rl.evaluation.serving.questions import JOINED, read_questions
from qwen3vl_rl.evaluation.serving.settings import PARSERS

FAILED = "[LMMS_EVAL_REQUEST_FAILED"  # how the answer to a failed request begins
TASK_MODULE = "qwen3vl_rl.evaluation.lmms_task"
TASK_FUNCTIONS = ("doc_to_visual", "doc_to_text", "process_results")
METRIC = "egm_ACC@0.5"
MAX_TOKENS = 4096  # as in serving/recipe.yaml
_TASK = re.compile(r"samples_(?P<set>refcoco(?:_plus|[+g])?)_(?:grounding|bbox_rec)_(?P<part>val|testA|testB|test)$")

Named = tuple[str, tuple[str, ...]]  # split and sentences


def write_tasks(questions: Sequence[Question], images: Path, out: Path) -> list[str]:
    """Write a YAML file and a jsonl file for each split. Returns the names of the tasks."""
    out.mkdir(parents=True, exist_ok=True)
    names = []
    for split, members in groupby(questions, key=lambda question: question.split):
        name = f"egm_{split}"
        rows = [
            sample_row(question.sample)
            | {
                "key": question.key,
                "prompt": question.sample.prompt_name,
                "path": str(images.resolve() / question.sample.image),
            }
            for question in members
        ]
        write_jsonl(out / f"{split}.jsonl", rows)
        with replacing(out / f"{name}.yaml") as draft:
            draft.write_text(_task_yaml(name, f"{split}.jsonl"), encoding="utf-8")
        names.append(name)
    return names


def _task_yaml(name: str, data: str) -> str:
    """PyYAML cannot write the tag `!function`, so these lines are appended as text."""
    config = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": data}},
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_target": "bbox",
        "generation_kwargs": {"max_new_tokens": MAX_TOKENS, "temperature": 0, "do_sample": False},
    }
    tagged = [f"{name}: !function {TASK_MODULE}.{name}" for name in TASK_FUNCTIONS]
    tagged += ["metric_list:", f"- metric: {METRIC}", f"  aggregation: !function {TASK_MODULE}.accuracy"]
    return yaml.safe_dump(config, sort_keys=False) + "\n".join([*tagged, "  higher_is_better: true\n"])


class Asked:
    """Finds the question that a sample of lmms-eval belongs to. `nearest` returns each question once."""

    def __init__(self, questions: Sequence[Question], joined: Sequence[Question]):
        self._by_key = {question.key: question for question in questions}
        self._waiting: dict[Named, list[Question]] = defaultdict(list)
        for question in (*questions, *(one for one in joined if JOINED in one.sample.sent)):
            self._waiting[_named(question.split, question.sample.sent.split(JOINED))].append(question)

    def by_key(self, key: object) -> Question | None:
        return self._by_key.get(key) if type(key) is str else None

    def nearest(self, split: str, sents: Sequence[str], box: Sequence[float]) -> Question | None:
        """The question with this split, these sentences and, up to rounding, this box (xyxy in px or 0..1)."""
        waiting = self._waiting.get(_named(split, sents), [])
        far = {number: _distance(question.sample, box) for number, question in enumerate(waiting)}
        best = min(far, key=far.__getitem__, default=None)
        return waiting.pop(best) if best is not None and far[best] <= EDGE_PX else None


def _named(split: str, sents: Sequence[str]) -> Named:
    return split, tuple(str(sent).strip() for sent in sents)


def _distance(sample: Sample, box: Sequence[float]) -> float:
    """The largest difference of the four numbers, in px. lmms-eval rounds to float32 and does not clip boxes."""
    if sample.xyxy_px is None:
        return inf
    sides = (sample.width, sample.height) * 2
    scaled = [v * side for v, side in zip(box, sides, strict=True)] if max(box) <= NORMALISED_AT_MOST else box
    return max(abs(v - own) for v, own in zip(scaled, sample.xyxy_px, strict=True))


def split_of(path: Path) -> str | None:
    """The split that a file name of lmms-eval's own tasks gives, None for other tasks.

    `refcoco+_testA` for `…_samples_refcoco_plus_grounding_testA.jsonl` and `…_samples_refcoco+_bbox_rec_testA.jsonl`.
    """
    found = _TASK.search(path.stem)
    return f"{found['set'].replace('_plus', '+')}_{found['part']}" if found else None


def read_samples_file(path: Path, asked: Asked, parser: str, unknown: Counter[str]) -> Iterator[Prediction]:
    """The scored answers of one file that lmms-eval logged.

    Answers to questions that `asked` lacks are counted in `unknown`. Raises InputError naming file, row and field.
    """
    split = split_of(path)
    for number, line in iter_lines(path):
        row = parse_line(path, number, line)
        found = next(filter(_names_question, row.values()), None)
        if found is None:
            raise row_error(path, number, METRIC, "a metric of a RefCOCO or EGM task with answer and bbox", sorted(row))
        question = _find(path, number, found, split, asked)
        if question is None:
            unknown[path.name] += 1
            continue
        text = _text(path, number, row)
        error = text if text.startswith(FAILED) else None
        yield score(question, "" if error else text, parser=parser, tokens=_tokens(row), error=error)


def _names_question(value: object) -> bool:
    return isinstance(value, dict) and ("key" in value or {"answer", "bbox"} <= value.keys())


def _find(path: Path, number: int, found: Mapping[str, Any], split: str | None, asked: Asked) -> Question | None:
    if "key" in found:
        return asked.by_key(found["key"])
    if split is None:
        raise row_error(path, number, "answer", "a file of refcoco*_grounding_* or refcoco*_bbox_rec_*", path.name)
    if not is_box(found["bbox"]):
        raise row_error(path, number, "bbox", "four numbers", found["bbox"])
    sents = found["answer"] if isinstance(found["answer"], list) else [found["answer"]]
    return asked.nearest(split, sents, found["bbox"])


def _text(path: Path, number: int, row: Mapping[str, Any]) -> str:
    text = row.get("resps", row.get("filtered_resps"))
    while isinstance(text, list) and text:
        text = text[0]
    if not isinstance(text, str):
        raise row_error(path, number, "filtered_resps", "the answer's text", text)
    return text


def _tokens(row: Mapping[str, Any]) -> int:
    """Tokens of the answer, 0 if lmms-eval has not counted them."""
    counts = row.get("token_counts")
    first = counts[0] if isinstance(counts, list) and counts else None
    count = first.get("output_tokens") if isinstance(first, dict) else None
    return count if type(count) is int else 0


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m qwen3vl_rl.evaluation.lmms_eval",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    task = commands.add_parser("task", help="write our splits as tasks of lmms-eval")
    read = commands.add_parser("read", help="convert the samples that lmms-eval logged to predictions.jsonl")
    read.add_argument("samples", nargs="+", type=Path, metavar="SAMPLES", help="…_samples_*.jsonl")
    for command in (task, read):
        command.add_argument("--data", nargs="+", type=Path, required=True, help="evaluation jsonl files or folders")
        command.add_argument("--images", type=Path, required=True, help="the folder that image paths are relative to")
        command.add_argument("--out", type=Path, required=True, help="folder of tasks, or predictions.jsonl")
    read.add_argument("--parser", choices=PARSERS, default="strict", help="how boxes are read (default: strict)")
    args = parser.parse_args()
    questions = read_questions(args.data, args.images)
    if args.command == "task":
        print(f"{args.out}: {', '.join(write_tasks(questions, args.images, args.out))}")
        return
    asked, unknown = Asked(questions, read_questions(args.data, args.images, joined=True)), Counter()
    predictions = [
        one for path in args.samples for one in read_samples_file(path, asked, PARSERS[args.parser], unknown)
    ]
    for name, count in unknown.items():
        print(f"{name}: skipped {count:,} answers to questions that --data lacks")
    if not predictions:
        raise InputError("SAMPLES: expected answers to questions of --data, found none")
    if len({one.key for one in predictions}) < len(predictions):
        raise InputError("SAMPLES: expected every question once; pass files of one run and one kind of task")
    write_jsonl(args.out, map(asdict, predictions))
    print(f"{args.out}: {len(predictions):,} answers")


if __name__ == "__main__":
    cli(main)

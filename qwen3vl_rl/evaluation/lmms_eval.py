"""Our splits in lmms-eval, and lmms-eval's answers in our tables. Read in the source of lmms-eval 0.7.3.

    python -m qwen3vl_rl.evaluation.lmms_eval task --data DIR --images DIR --out TASKS     one task a split
    PYTHONPATH=. python -m lmms_eval --include_path TASKS --tasks egm_refcoco_val --log_samples --output_path LOGS …
    python -m qwen3vl_rl.evaluation.lmms_eval read LOGS/…samples_*.jsonl --data DIR --images DIR --out predictions.jsonl
    python -m qwen3vl_rl.evaluation.protocols predictions.jsonl

`read` takes the samples of our tasks and of lmms-eval's own `refcoco_grounding` and `refcoco*_bbox_rec`. Those name no
image: a sample is found by its sentences and box among the rows of `--data`.
"""

import argparse
from collections import defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import Any

import yaml

from qwen3vl_rl.data.files import replacing
from qwen3vl_rl.data.jsonl import iter_lines, parse_line, write_jsonl
from qwen3vl_rl.data.predictions import Prediction, Question, score
from qwen3vl_rl.data.samples import sample_row
from qwen3vl_rl.errors import InputError, cli, row_error
from qwen3vl_rl.evaluation.serving.questions import read_questions
from qwen3vl_rl.evaluation.serving.settings import PARSERS

FAILED = "[LMMS_EVAL_REQUEST_FAILED"  # begins the answer to a request that failed
TASK_MODULE = "qwen3vl_rl.evaluation.lmms_task"
TASK_FUNCTIONS = ("doc_to_visual", "doc_to_text", "process_results")
METRIC = "egm_ACC@0.5"
MAX_TOKENS = 4096  # recipe of the evaluation
NEAR = 2  # decimals of boxes in px that must agree, and three more of those in 0..1

Key = tuple[tuple[str, ...], tuple[float, ...]]  # sentences and box


def write_tasks(questions: Sequence[Question], images: Path, out: Path) -> list[str]:
    """A YAML file and a jsonl file of each split; returns the names of the tasks."""
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
    """PyYAML writes no tag of its own for a text, so that lines with `!function` are put behind it."""
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
    """The questions of our files, by what lmms-eval's samples say of them. Each is found once."""

    def __init__(self, questions: Sequence[Question], joined: Sequence[Question]):
        self._by_key = {question.key: question for question in questions}
        self._by_px: dict[Key, deque[Question]] = defaultdict(deque)
        self._by_share: dict[Key, deque[Question]] = defaultdict(deque)
        for question in joined:
            if box := question.sample.xyxy_px:
                self._by_px[_key(question.sample.sent.split('", "'), box, NEAR)].append(question)
        for question in questions:
            if box := question.sample.xyxy_px:
                sides = (question.sample.width, question.sample.height) * 2
                share = tuple(v / side for v, side in zip(box, sides, strict=True))
                self._by_share[_key([question.sample.sent], share, NEAR + 3)].append(question)

    def find(self, path: Path, number: int, found: Mapping[str, Any]) -> Question:
        """`found`: what a metric of a sample holds. Raises InputError where no question is left for it."""
        if "key" in found:
            question = self._by_key.get(found["key"])
        else:
            is_joined = isinstance(found["answer"], list)
            sents = found["answer"] if is_joined else [found["answer"]]
            places = self._by_px if is_joined else self._by_share
            waiting = places.get(_key(sents, found["bbox"], NEAR if is_joined else NEAR + 3))
            question = waiting.popleft() if waiting else None
        if question is None:
            expected = "the sentences and the box of rows in --data, each once"
            raise row_error(path, number, "answer", expected, found.get("key", found.get("answer")))
        return question


def _key(sents: Sequence[str], box: Sequence[float], decimals: int) -> Key:
    return tuple(sent.strip() for sent in sents if sent.strip()), tuple(round(float(v), decimals) for v in box)


def read_samples_file(path: Path, asked: Asked, parser: str) -> Iterator[Prediction]:
    """The answers of one file that lmms-eval logged. Raises InputError naming file, row and field."""
    for number, line in iter_lines(path):
        row = parse_line(path, number, line)
        found = next(filter(_names_question, row.values()), None)
        if found is None:
            raise row_error(path, number, METRIC, "a metric of a RefCOCO or EGM task with answer and bbox", sorted(row))
        text = row.get("resps", row.get("filtered_resps"))
        while isinstance(text, list) and text:
            text = text[0]
        if not isinstance(text, str):
            raise row_error(path, number, "filtered_resps", "the answer's text", text)
        error = text if text.startswith(FAILED) else None
        tokens = row.get("token_counts")
        count = tokens[0].get("output_tokens") if isinstance(tokens, list) and tokens and tokens[0] else None
        question = asked.find(path, number, found)
        yield score(question, "" if error else text, parser=parser, tokens=count or 0, error=error)


def _names_question(value: object) -> bool:
    return isinstance(value, dict) and ("key" in value or {"answer", "bbox"} <= value.keys())


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m qwen3vl_rl.evaluation.lmms_eval",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    task = commands.add_parser("task", help="our splits as tasks of lmms-eval")
    read = commands.add_parser("read", help="what lmms-eval logged as predictions.jsonl")
    read.add_argument("samples", nargs="+", type=Path, metavar="SAMPLES", help="…_samples_*.jsonl")
    for command in (task, read):
        command.add_argument("--data", nargs="+", type=Path, required=True, help="evaluation jsonl files or folders")
        command.add_argument("--images", type=Path, required=True, help="the folder that image paths are relative to")
        command.add_argument("--out", type=Path, required=True)
    read.add_argument("--parser", choices=PARSERS, default="strict", help="how answers are read (strict)")
    args = parser.parse_args()
    questions = read_questions(args.data, args.images)
    if args.command == "task":
        print(f"{args.out}: {', '.join(write_tasks(questions, args.images, args.out))}")
        return
    asked = Asked(questions, read_questions(args.data, args.images, joined=True))
    predictions = [one for path in args.samples for one in read_samples_file(path, asked, PARSERS[args.parser])]
    if len({one.key for one in predictions}) < len(predictions):
        raise InputError("SAMPLES: expected every question once; give the files of one run and one kind of task")
    write_jsonl(args.out, map(asdict, predictions))
    print(f"{args.out}: {len(predictions):,} answers")


if __name__ == "__main__":
    cli(main)

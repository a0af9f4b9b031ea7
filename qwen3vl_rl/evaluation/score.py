"""Score existing answers: those of another tool, or our own with another parser.

    python -m qwen3vl_rl.evaluation.score ANSWERS.jsonl --data refcoco_val.jsonl --images DIR --out predictions.jsonl
    python -m qwen3vl_rl.evaluation.table predictions.jsonl

A row of ANSWERS needs the answer's `text`, and the `id` of its sample or the `key` of its question (SPLIT/ROW with rows
from 000001, as in predictions.jsonl). `tokens`, `latency_s`, `finish_reason` and `error` are optional and are kept.
`--coordinates px --parser released` reads the numbers as px of the picture.
"""

import argparse
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from qwen3vl_rl.data.boxes import is_number
from qwen3vl_rl.data.jsonl import read_jsonl, write_jsonl
from qwen3vl_rl.data.predictions import Prediction, Question, score
from qwen3vl_rl.errors import InputError, cli, row_error
from qwen3vl_rl.evaluation.serving.questions import read_questions
from qwen3vl_rl.evaluation.serving.settings import PARSERS, load_settings
from qwen3vl_rl.grounding import COORDINATES


def score_answers(path: Path, questions: Sequence[Question], parser: str, coordinates: str) -> Iterator[Prediction]:
    """The scored answers of the file. Raises InputError for a bad row, and for a question that is answered twice."""
    ids = Counter(question.sample.id for question in questions)
    named = {q.sample.id: q for q in questions if ids[q.sample.id] == 1} | {q.key: q for q in questions}
    done = set()
    for number, row in enumerate(read_jsonl(path), start=1):
        field = "key" if "key" in row else "id"
        question = named.get(str(row.get(field)))
        if question is None:
            raise row_error(
                path, number, field, "the key of a question, or the id of exactly one sample of --data", row.get(field)
            )
        if question.key in done:
            raise row_error(path, number, field, "each question once", row[field])
        done.add(question.key)
        text, tokens, latency_s = row.get("text"), row.get("tokens", 0), row.get("latency_s", 0.0)
        if type(text) is not str:
            raise row_error(path, number, "text", "the answer's text", text)
        for name, value in (("tokens", tokens), ("latency_s", latency_s)):
            if not is_number(value):
                raise row_error(path, number, name, "a number", value)
        error = row.get("error") or None
        yield score(
            question,
            "" if error else text,
            parser=parser,
            coordinates=coordinates,
            tokens=tokens,
            latency_s=latency_s,
            finish_reason=row.get("finish_reason"),
            error=error,
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m qwen3vl_rl.evaluation.score",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("answers", type=Path, metavar="ANSWERS", help="jsonl file, one answer per row")
    parser.add_argument("--data", nargs="+", type=Path, required=True, help="evaluation jsonl files, one per split")
    parser.add_argument("--images", type=Path, required=True, help="the folder that image paths are relative to")
    parser.add_argument("--out", type=Path, required=True, help="the predictions.jsonl to write")
    parser.add_argument("--parser", choices=PARSERS, default="strict", help="how boxes are read (default: strict)")
    parser.add_argument("--coordinates", choices=COORDINATES, default="relative_1000", help="(default: relative_1000)")
    args = parser.parse_args()
    chosen = load_settings(parser=args.parser, coordinates=args.coordinates)
    questions = read_questions(args.data, args.images)
    rows = list(score_answers(args.answers, questions, PARSERS[chosen.parser], chosen.coordinates))
    if not rows:
        raise InputError(f"{args.answers}: expected at least one answer, found none")
    write_jsonl(args.out, map(asdict, rows))
    print(f"{args.out}: {len(rows):,} answers to {len(questions):,} questions")
    if len(rows) < len(questions):
        print(f"{len(questions) - len(rows):,} questions have no answer and are left out of all scores")


if __name__ == "__main__":
    cli(main)

"""Everything that an experiment measured, in one file: python -m examples.longer_vs_bigger.collect --out OUT FILE.json

Of each model its size, accuracy with interval by split and by kind of expression, and tokens; latencies beside it, and
what paired models differ by.
"""

import argparse
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import yaml

from benchmarks.common import write_result
from examples.longer_vs_bigger.run import SLICES
from qwen3vl_rl.data.predictions import Prediction, question_key
from qwen3vl_rl.evaluation.metrics import compare, summarize
from qwen3vl_rl.evaluation.run import Result, read_result
from qwen3vl_rl.evaluation.scaling import read_scaling
from qwen3vl_rl.grounding import InputError, cli
from qwen3vl_rl.shapes import find_shape

LATENCY = "latency-"  # folders of eval/ whose requests were measured with nothing else on the GPU


def collect(out: Path) -> dict:
    """Raises InputError where nothing is evaluated yet."""
    found = {f"{f.parts[-3]}/{f.parts[-2]}": f.parent for f in sorted((out / "eval").glob("*/*/summary.json"))}
    if not found:
        raise InputError(f"{out}: expected finished evaluations below eval/, found none")
    jobs = {record.stem: json.loads(record.read_text()) for record in sorted((out / "jobs").glob("*.json"))}
    kinds = dict(kinds_of_questions(out / "data" / "0" / "eval"))
    slices = [json.loads(path.read_text()) for path in sorted((out / "jobs" / SLICES).glob("*.json"))]
    return {
        "jobs_s": {name: job["seconds"] for name, job in jobs.items()},
        "slices": slices,
        "gpu_s": round(sum(part["seconds"] * part["gpus"] for part in slices)),
        "models": {name: model(folder, kinds) for name, folder in found.items() if not name.startswith(LATENCY)},
        "latency": {
            name.removeprefix(LATENCY): latency(read_result(folder).timing)
            for name, folder in found.items()
            if name.startswith(LATENCY)
        },
        "differences": dict(differences(found)),
        "budgets": {
            name: {way.name: accuracies(way) for way in ways}
            for name, ways in (read_scaling(out / "budgets") if (out / "budgets").exists() else {}).items()
        },
    }


def differences(found: dict[str, Path]) -> Iterator[tuple[str, dict]]:
    """`4m/rl - 62m/base`: RL against what it came from, against direct answers and against bigger models, over the
    questions of all seeds; intervals resample images. Of the ablations each against the run that they vary."""
    predictions = cache(lambda name: read_result(found[name]).predictions)

    def pooled(names: Sequence[str]) -> list[Prediction]:
        return [replace(row, key=f"{n}/{row.key}") for n, name in enumerate(names) for row in predictions(name)]

    def difference(after: Sequence[str], before: Sequence[str]) -> dict:
        compared = compare(pooled(before), pooled(after))
        return {
            place: {"points": 100 * c.difference.value, "interval": [100 * bound for bound in c.difference.interval]}
            for place, c in compared.items()
        }

    bases = sorted((name for name in found if re.fullmatch(r"[^-/]+/base", name)), key=lambda name: size(found[name]))
    for rung in [name.removesuffix("/base") for name in bases]:
        runs = {kind: sorted(n for n in found if n.startswith(f"{rung}/{kind}-")) for kind in ("direct", "sft", "rl")}
        reasoned = runs["rl"]
        for kind in ("sft", "direct"):
            if reasoned and len(runs[kind]) == len(reasoned):
                yield f"{rung}/rl - {rung}/{kind}", difference(reasoned, runs[kind])
        for base in bases[bases.index(f"{rung}/base") :] if reasoned else []:
            yield f"{rung}/rl - {base}", difference(reasoned, [base] * len(reasoned))
    for name in (name for name in found if name.startswith("ablations/")):
        rung = Path(checkpoint(found[name])).name.split("-")[1]  # `4m` of `rl-4m-giou`
        for start in sorted(other for other in found if other.startswith(f"{rung}/rl-"))[:1]:
            yield f"{name} - {start}", difference([name], [start])


def checkpoint(folder: Path) -> str:
    return yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))["model"]


def size(folder: Path) -> int:
    return find_shape("tiny", checkpoint(folder)).parameters


def kinds_of_questions(folder: Path) -> Iterator[tuple[str, str]]:
    """(key of a question, kind of its expression), as RefShapes has drawn them."""
    for path in sorted(folder.glob("*.jsonl")):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            yield question_key(path.stem, number), json.loads(line)["kind"]


def model(folder: Path, kinds: dict[str, str]) -> dict:
    """One evaluated model, with the size that its checkpoint tells."""
    shape = find_shape("tiny", checkpoint(folder))
    size = {"parameters": shape.parameters, "language_parameters": shape.language_parameters}
    result = read_result(folder)
    asked = [row for row in result.predictions if row.split in result.summary["average"]["of"]]
    by_kind = {kind: [row for row in asked if kinds.get(row.key) == kind] for kind in dict.fromkeys(kinds.values())}
    found = {
        kind: accuracy(summarize(rows)["average"]) | {"samples": len(rows)} for kind, rows in by_kind.items() if rows
    }
    return size | accuracies(result) | {"kinds": found}


def accuracies(result: Result) -> dict:
    summary = result.summary
    return {
        "splits": {name: accuracy(split) for name, split in summary["splits"].items()},
        "average": accuracy(summary["average"]),
        "tokens": summary["average"]["mean_tokens"],
    }


def latency(timing: dict) -> dict:
    """Medians, of a request alone and of one among many."""
    return {
        "alone_s": timing["alone"]["p50_s"],
        "loaded_s": timing["latency"]["average"]["p50_s"],
        "in_flight": timing["concurrency"],
        "requests_per_s": timing["requests_per_s"],
        "device": timing["server"]["device"],
    }


def accuracy(fields: dict) -> dict:
    return {"acc": fields["acc"], "interval": fields["acc_interval"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="where run.py worked")
    parser.add_argument("file", type=Path)
    args = parser.parse_args()
    write_result(args.file, "examples.longer_vs_bigger.collect", collect(args.out))
    print(f"wrote {args.file}")


if __name__ == "__main__":
    cli(main)

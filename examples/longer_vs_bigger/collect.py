"""Everything that an experiment measured, in one file: python -m examples.longer_vs_bigger.collect --out OUT FILE.json

Of each model its size, accuracy with interval by split and by kind of expression, tokens, latency alone and under load.
"""

import argparse
import json
from pathlib import Path

import yaml

from benchmarks.common import write_result
from qwen3vl_rl.evaluation.run import Result, read_result
from qwen3vl_rl.evaluation.scaling import read_scaling
from qwen3vl_rl.grounding import InputError, cli
from qwen3vl_rl.shapes import find_shape


def collect(out: Path) -> dict:
    """Raises InputError where nothing is evaluated yet."""
    folders = sorted(summary.parent for summary in (out / "eval").glob("*/*/summary.json"))
    if not folders:
        raise InputError(f"{out}: expected finished evaluations below eval/, found none")
    jobs = {record.stem: json.loads(record.read_text()) for record in sorted((out / "jobs").glob("*.json"))}
    return {
        "jobs_s": {name: job["seconds"] for name, job in jobs.items()},
        "gpu_s": round(sum(job["seconds"] * job["share"] for job in jobs.values())),
        "models": {f"{folder.parent.name}/{folder.name}": model(folder) for folder in folders},
        "budgets": {
            name: {way.name: numbers(way) for way in ways}
            for name, ways in (read_scaling(out / "budgets") if (out / "budgets").exists() else {}).items()
        },
    }


def model(folder: Path) -> dict:
    """One evaluated model, with the size that its checkpoint tells."""
    checkpoint = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))["model"]
    shape = find_shape("tiny", checkpoint)
    size = {"parameters": shape.parameters, "language_parameters": shape.language_parameters}
    return size | numbers(read_result(folder))


def numbers(result: Result) -> dict:
    summary, timing = result.summary, result.timing
    kinds = summary["groups"].get("expression", {})
    return {
        "splits": {name: accuracy(split) for name, split in summary["splits"].items()},
        "average": accuracy(summary["average"]),
        "kinds": {kind: accuracy(group) | {"samples": group["samples"]} for kind, group in kinds.items()},
        "tokens": summary["average"]["mean_tokens"],
        "latency_alone_s": timing.get("alone", {}).get("p50_s"),
        "latency_loaded_s": timing["latency"].get("average", {}).get("p50_s"),
        "requests_per_s": timing.get("requests_per_s"),
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

"""Everything that an experiment measured, in one file: python -m examples.longer_vs_bigger.collect --out OUT FILE.json

Of each model its size, accuracy with interval by split and by kind of expression, and tokens; latencies beside it.
"""

import argparse
import json
from pathlib import Path

import yaml

from benchmarks.common import write_result
from examples.longer_vs_bigger.run import SLICES
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
    slices = [json.loads(path.read_text()) for path in sorted((out / "jobs" / SLICES).glob("*.json"))]
    return {
        "jobs_s": {name: job["seconds"] for name, job in jobs.items()},
        "slices": slices,
        "gpu_s": round(sum(part["seconds"] * part["gpus"] for part in slices)),
        "models": {name: model(folder) for name, folder in found.items() if not name.startswith(LATENCY)},
        "latency": {
            name.removeprefix(LATENCY): latency(read_result(folder).timing)
            for name, folder in found.items()
            if name.startswith(LATENCY)
        },
        "budgets": {
            name: {way.name: accuracies(way) for way in ways}
            for name, ways in (read_scaling(out / "budgets") if (out / "budgets").exists() else {}).items()
        },
    }


def model(folder: Path) -> dict:
    """One evaluated model, with the size that its checkpoint tells."""
    checkpoint = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))["model"]
    shape = find_shape("tiny", checkpoint)
    size = {"parameters": shape.parameters, "language_parameters": shape.language_parameters}
    return size | accuracies(read_result(folder))


def accuracies(result: Result) -> dict:
    summary = result.summary
    kinds = summary["groups"].get("expression", {})
    return {
        "splits": {name: accuracy(split) for name, split in summary["splits"].items()},
        "average": accuracy(summary["average"]),
        "kinds": {kind: accuracy(group) | {"samples": group["samples"]} for kind, group in kinds.items()},
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

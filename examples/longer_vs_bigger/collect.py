"""Collect the results of an experiment in one file: python -m examples.longer_vs_bigger.collect --out OUT FILE.json

The file holds the size, the accuracies by split and by kind of expression and the tokens of each model, and the paired
differences between models. Unfinished evaluations are left out. Intervals are bootstrapped over images. They do not
cover the variation between trainings; for that, `by_seed` lists the difference of each seed.
"""

import argparse
import itertools
import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import numpy as np
import yaml

from benchmarks.common import write_result
from examples.longer_vs_bigger.run import SLICES
from qwen3vl_rl.data.predictions import question_key
from qwen3vl_rl.errors import InputError, cli
from qwen3vl_rl.evaluation.scoring.metrics import compare, summarize
from qwen3vl_rl.evaluation.scoring.results import Result, missing_part, read_result, read_scaling
from qwen3vl_rl.models.families import read_shape
from qwen3vl_rl.training.metrics import read_metrics

STUDY = ("study-", "compared-")  # prefixes of folders of eval/ that hold the starter's models of one seed
REASONING = ("sft", "rl", "sft_thorough")  # trainings after which models reason
STRICTER = (0.75, 0.9)  # further IoU thresholds
BUCKETS = 12  # points of a learning curve
CURVES = {
    "acc": "reward/acc",
    "tokens": "response_length/mean",
    "alike_groups": "rollout/alike_groups",
    "kl": "actor/kl_loss",
    "entropy": "actor/entropy",
}


def collect(out: Path) -> dict:
    """The content of the results file. Raises InputError if no evaluation is finished."""
    folders = {f"{f.parts[-2]}/{f.parts[-1]}": f for f in sorted((out / "eval").glob("*/*"))}
    finished = {name: read_result(folder) for name, folder in folders.items() if not missing_part(folder)}
    results = {name: result for name, result in finished.items() if not name.startswith(STUDY)}
    if not results:
        raise InputError(f"{out}: expected finished evaluations below eval/, found none")
    jobs = {record.stem: json.loads(record.read_text()) for record in sorted((out / "jobs").glob("*.json"))}
    kinds = dict(kinds_of_questions(out / "data" / "0" / "eval"))
    budgets = out / "budgets"
    slices = [json.loads(path.read_text()) for path in sorted((out / "jobs" / SLICES).glob("*.json"))]
    return {
        "device": ", ".join(sorted({result.timing["server"]["device"] for result in results.values()})),
        "jobs_s": {name: job["seconds"] for name, job in jobs.items()},
        "slices": slices,
        "gpu_s": round(sum(part["seconds"] * part["gpus"] for part in slices)),
        "models": {
            name: size_of(out, folders[name]) | accuracies(result) | {"kinds": by_kind(result, kinds)}
            for name, result in results.items()
        },
        "differences": dict(differences(results, out, folders)),
        "study": study(finished),
        "learning": dict(learning(out / "runs")),
        "budgets": {
            name: {way.name: accuracies(way) for way in ways}
            for name, ways in (read_scaling(budgets) if has_finished(budgets) else {}).items()
        },
    }


def has_finished(out: Path) -> bool:
    """Whether any evaluation in OUT/MODEL/ is finished."""
    return any(not missing_part(folder) for folder in out.glob("*/*"))


def differences(results: dict[str, Result], out: Path, folders: dict[str, Path]) -> Iterator[tuple[str, dict]]:
    """Yield names such as `4m/rl - 62m/direct` with their differences, paired by seed:

    - reasoning, by SFT alone and with RL, against direct answers of the same rung and of bigger ones;
    - RL against the SFT that it started from, against SFT on thorough traces, and against RL with other settings;
    - RL, and both trainings with direct amodal answers, against the base;
    - direct answers of bigger rungs against those of the rung;
    - each ablation against the run of seed 0 that it varies, and RL from direct answers also against direct answers.
    """
    bases = [name for name in results if name.endswith("/base")]
    bases.sort(key=lambda name: size_of(out, folders[name])["parameters"])
    rungs = [name.removesuffix("/base") for name in bases]
    for rung in rungs:
        if not by_seed(results, f"{rung}/rl-"):
            continue
        for training, other in itertools.product(REASONING, rungs[rungs.index(rung) :]):
            yield from paired(results, f"{rung}/{training}", f"{other}/direct")
        for before in ("sft", "sft_thorough", "rl_ours"):
            yield from paired(results, f"{rung}/rl", f"{rung}/{before}")
        yield from paired(results, f"{rung}/rl_amodal", f"{rung}/sft_amodal")
        for after in ("rl", "sft_amodal", "rl_amodal"):  # mainly for the amodal split
            yield from against_base(results, f"{rung}/{after}", f"{rung}/base")
        for other in rungs[rungs.index(rung) + 1 :]:
            yield from paired(results, f"{other}/direct", f"{rung}/direct")
    for name in (name for name in results if name.startswith("ablations/")):
        rung = checkpoint_of(out, folders[name]).name.split("-")[1]  # `4m` of `rl-4m-giou`
        for start in (f"{rung}/rl-0", *([f"{rung}/direct-0"] if name.endswith("from-direct") else [])):
            if start in results:
                yield f"{name} - {start}", difference([(results[start], results[name])])


def paired(results: dict[str, Result], after: str, before: str) -> Iterator[tuple[str, dict]]:
    """The difference over the seeds that both trainings have, if any."""
    late, early = by_seed(results, f"{after}-"), by_seed(results, f"{before}-")
    if shared := sorted(late.keys() & early.keys()):
        yield f"{after} - {before}", difference([(early[seed], late[seed]) for seed in shared])


def against_base(results: dict[str, Result], after: str, base: str) -> Iterator[tuple[str, dict]]:
    """The difference of all seeds from the base that they started from."""
    if found := by_seed(results, f"{after}-"):
        yield f"{after} - {base}", difference([(results[base], result) for result in found.values()])


def by_seed(results: dict[str, Result], prefix: str) -> dict[str, Result]:
    return {name.removeprefix(prefix): results[name] for name in sorted(results) if name.startswith(prefix)}


def difference(pairs: Sequence[tuple[Result, Result]]) -> dict:
    """The difference in points of Acc@0.5, pooled over the questions of all pairs (before, after)."""
    pooled = [
        [replace(row, key=f"{number}/{row.key}") for number, pair in enumerate(pairs) for row in pair[side].predictions]
        for side in (0, 1)
    ]
    alone = [compare(before.predictions, after.predictions) for before, after in pairs]
    return {
        place: {
            "points": 100 * found.difference.value,
            "interval": found.difference.interval and [100 * bound for bound in found.difference.interval],
            "by_seed": [100 * one[place].difference.value for one in alone],
        }
        for place, found in compare(*pooled).items()
    }


def study(results: dict[str, Result]) -> dict[str, dict]:
    """Results of the starter after SFT and after RL, one per seed, with their differences.

    Keys are the percentage of thorough traces and what was changed in RL, such as `35` and `35_rate_3e-5`.
    """
    found = {name.partition("/")[2]: result for name, result in results.items() if name.startswith(STUDY)}
    pairs = defaultdict(list)  # (after SFT, after RL)
    for name, result in found.items():
        training, _, rest = name.partition("-")
        setting, _, seed = rest.rpartition("-")
        start = found.get(f"study_sft-{setting.partition('_')[0]}-{seed}")
        if training == "study_rl" and start:
            pairs[setting].append((start, result))
    return {
        setting: {
            "sft": [accuracies(before) for before, _ in seeds],
            "rl": [accuracies(after) for _, after in seeds],
            "difference": difference(seeds),
            **against_recipe(setting, found),
        }
        for setting, seeds in pairs.items()
    }


def against_recipe(setting: str, found: dict[str, Result]) -> dict:
    """The difference of a changed run of RL from the unchanged one, over the seeds that have both."""
    thorough, _, changed = setting.partition("_")
    late, early = by_seed(found, f"study_rl-{setting}-"), by_seed(found, f"study_rl-{thorough}-")
    shared = sorted(late.keys() & early.keys())
    return {"against_recipe": difference([(early[seed], late[seed]) for seed in shared])} if changed and shared else {}


def learning(runs: Path) -> Iterator[tuple[str, dict]]:
    """Yield the learning curve of each RL run: means of `CURVES` over `BUCKETS` equal parts of its steps."""
    for run in sorted(runs.glob("*rl*-*")):
        rows = [row for row in read_metrics(run).values() if "reward/acc" in row]
        parts = [part for part in np.array_split(np.arange(len(rows)), BUCKETS) if len(part)]
        if parts:
            yield (
                run.name,
                {
                    "step": [int(part[-1]) + 1 for part in parts],
                    **{
                        name: [round(fmean(rows[i][key] for i in part), 4) for part in parts]
                        for name, key in CURVES.items()
                        if key in rows[0]
                    },
                },
            )


def checkpoint_of(out: Path, folder: Path) -> Path:
    """The evaluated checkpoint. It is looked up in `out`, which may have been moved since the evaluation."""
    model = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))["model"]
    return out / "checkpoints" / Path(model).name


def size_of(out: Path, folder: Path) -> dict[str, int]:
    """Numbers of parameters. Raises InputError if the evaluated checkpoint is gone."""
    path = checkpoint_of(out, folder)
    if not (path / "config.json").is_file():
        raise InputError(f"{path}: expected the checkpoint that {folder} evaluated, found no config.json in it")
    shape = read_shape(path)
    return {"parameters": shape.parameters, "language_parameters": shape.language_parameters}


def kinds_of_questions(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield (key of a question, kind of its expression) from the evaluation files of RefShapes."""
    for path in sorted(folder.glob("*.jsonl")):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            yield question_key(path.stem, number), json.loads(line)["kind"]


def by_kind(result: Result, kinds: dict[str, str]) -> dict[str, dict]:
    """Accuracy by kind, pooled over all splits of the average."""
    asked = [replace(row, split="all") for row in result.predictions if row.split in result.summary["average"]["of"]]
    members = {kind: [row for row in asked if kinds.get(row.key) == kind] for kind in dict.fromkeys(kinds.values())}
    return {
        kind: accuracy(summarize(rows)["average"]) | {"samples": len(rows)} for kind, rows in members.items() if rows
    }


def accuracies(result: Result) -> dict:
    summary = result.summary
    return {
        "splits": {name: accuracy(split) | {"acc_90": split["acc_90"]} for name, split in summary["splits"].items()},
        "average": accuracy(summary["average"]) | {f"acc_{100 * iou:.0f}": above(result, iou) for iou in STRICTER},
        "tokens": summary["average"]["mean_tokens"],
    }


def above(result: Result, iou: float) -> float:
    """The share of answers with a higher IoU, averaged over splits like the accuracy."""
    splits = ([row for row in result.predictions if row.split == split] for split in result.summary["average"]["of"])
    return fmean(fmean(row.iou > iou for row in rows if row.xyxy_px) for rows in splits)


def accuracy(fields: dict) -> dict:
    return {"acc": fields["acc"], "interval": fields["acc_interval"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the --out of run.py")
    parser.add_argument("file", type=Path)
    args = parser.parse_args()
    write_result(args.file, "examples.longer_vs_bigger.collect", collect(args.out))
    print(f"wrote {args.file}")


if __name__ == "__main__":
    cli(main)

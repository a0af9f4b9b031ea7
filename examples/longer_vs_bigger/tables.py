"""Fill the tables of this folder's README from its results.json, or print all tables of a file:

    python -m examples.longer_vs_bigger.tables [FILE]

`TABLES[NAME]` makes the table that the README has between `<!-- NAME -->` and `<!-- end -->`. The accuracy of a model
with several seeds is their mean, with the lowest and the highest seed in brackets. A base has one seed, with its 95 %
interval over images in brackets. Differences have such intervals, followed by the difference of each seed.
"""

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean

from benchmarks.formats import markdown
from benchmarks.tables import fill
from qwen3vl_rl.data.refshapes import MAKERS
from qwen3vl_rl.errors import InputError, cli

FOLDER = Path(__file__).parent
SPLITS = {
    "val": "refshapes_val",
    "testA": "refshapes_testA",
    "testB": "refshapes_testB",
    "amodal": "refshapes_amodal_val",
}
ANSWERS = {
    "base": "base",
    "direct": "direct",
    "sft": "reasoning (SFT)",
    "rl": "reasoning (SFT, GRPO)",
    "rl_ours": "reasoning (SFT, GRPO by our settings)",
    "sft_thorough": "reasoning (SFT on thorough traces)",
    "sft_amodal": "reasoning, amodal directly (SFT)",
    "rl_amodal": "reasoning, amodal directly (SFT, GRPO)",
}


def rungs(results: dict) -> list[str]:
    """The model sizes, smallest first."""
    models = results["models"]
    bases = [name for name in models if name.endswith("/base")]
    return [name.removesuffix("/base") for name in sorted(bases, key=lambda name: models[name]["parameters"])]


def runs(results: dict, rung: str, training: str) -> dict[str, dict]:
    """Maps names to models, one per seed. A base has only one."""
    models = results["models"]
    return {name: models[name] for name in sorted(models) if f"{name}-".startswith(f"{rung}/{training}-")}


def trained(results: dict) -> Iterator[tuple[str, str, dict[str, dict]]]:
    """Yield (rung, training, runs) for all that have results."""
    for rung in rungs(results):
        for training in ANSWERS:
            if found := runs(results, rung, training):
                yield rung, training, found


def spread(values: Sequence[float], interval: Sequence[float] | None) -> str:
    mean = f"{100 * sum(values) / len(values):.1f}"
    if len(values) == 1 and interval is None:
        return mean
    low, high = interval if len(values) == 1 else (min(values), max(values))
    return f"{mean} [{100 * low:.1f}, {100 * high:.1f}]"


def accuracy(found: dict[str, dict], at: Callable[[dict], dict]) -> str:
    estimates = [at(model) for model in found.values()]
    return spread([estimate["acc"] for estimate in estimates], estimates[0]["interval"])


def answer_gflop(model: dict) -> float:
    """10^9 operations of the language model for an answer, at two per parameter and token. Reading the prompt and the
    image is not counted."""
    return 2e-9 * model["language_parameters"] * model["tokens"]


def ladder(results: dict) -> str:
    head = ("model", "language parameters", "answers", "average", *SPLITS, "tokens", "GFLOP")

    def rows() -> Iterator[Sequence[object]]:
        for rung, training, found in trained(results):
            first, *_ = found.values()
            models = list(found.values())
            yield (
                rung, f"{first['language_parameters'] / 1e6:.1f} M", ANSWERS[training],
                accuracy(found, lambda model: model["average"]),
                *(accuracy(found, lambda model, split=split: model["splits"][split]) for split in SPLITS.values()),
                f"{fmean(model['tokens'] for model in models):.0f}", f"{fmean(map(answer_gflop, models)):.1f}",
            )  # fmt: skip

    return markdown([head, *rows()])


def differences(results: dict) -> str:
    """Differences between models of the ladder."""
    return _differences(results, varied=False)


def ablations(results: dict) -> str:
    """Differences of ablations, which have one seed each."""
    return _differences(results, varied=True)


def points(estimate: dict) -> str:
    text = f"{estimate['points']:+.1f}"
    return text + (" ({:+.1f} to {:+.1f})".format(*estimate["interval"]) if estimate["interval"] else "")


def points_by_seed(estimate: dict) -> str:
    return ", ".join(f"{points:+.1f}" for points in estimate["by_seed"])


def _differences(results: dict, *, varied: bool) -> str:
    rows = (
        (
            name.removeprefix("ablations/"),
            *(points(found[place]) for place in ("average", *SPLITS.values())),
            *([points_by_seed(found["average"])] if not varied else []),
        )
        for name, found in results["differences"].items()
        if name.startswith("ablations/") == varied
    )
    head = ("difference, points", "average", *SPLITS, *(["average of each seed"] if not varied else []))
    return markdown([head, *rows])


def kinds(results: dict) -> str:
    measured = {kind for _, _, found in trained(results) for model in found.values() for kind in model["kinds"]}
    names = [kind for kind in MAKERS if kind in measured]
    rows = (
        (rung, ANSWERS[training], *(accuracy(found, lambda model, kind=kind: model["kinds"][kind]) for kind in names))
        for rung, training, found in trained(results)
    )
    return markdown([("model", "answers", *names), *rows])


def oracle(results: dict) -> str:
    def rows() -> Iterator[Sequence[object]]:
        for rung in rungs(results):
            for training in ("direct", "rl"):
                name = f"oracle-{rung}/{training}"
                if model := results["models"].get(name):
                    words = (model["splits"][f"refshapes_{wording}"] for wording in ("asked", "simple"))
                    yield rung, ANSWERS[training], *(spread([word["acc"]], word["interval"]) for word in words)

    return markdown([("model", "answers", "as asked", "in simple words"), *rows()])


def study(results: dict) -> str:
    """Gain of RL by the traces that SFT has learned from and by what was changed in RL."""

    def mean(models: Sequence[dict]) -> str:
        accuracies = [model["average"]["acc"] for model in models]
        return f"{spread(accuracies, None)}, {sum(model['tokens'] for model in models) / len(models):.0f} tokens"

    def order(setting: str) -> tuple[int, str]:
        thorough, _, changed = setting.partition("_")
        return int(thorough), changed

    def rows() -> Iterator[Sequence[object]]:
        for setting in sorted(results.get("study", {}), key=order):
            found, (thorough, _, changed) = results["study"][setting], setting.partition("_")
            gain = found["difference"]["average"]
            what = ", ".join(filter(None, (f"{thorough} %", changed.replace("_", " "))))
            yield what, mean(found["sft"]), mean(found["rl"]), points(gain), points_by_seed(gain)

    return markdown([("thorough traces", "SFT", "SFT, GRPO", "difference", "of each seed"), *rows()])


def compared(results: dict) -> str:
    """Variants of RL against the recipe's, from the same SFT and with as many answers."""

    def stricter(models: Sequence[dict], name: str) -> str:
        return spread([model["average"][name] for model in models], None)

    def rows() -> Iterator[Sequence[object]]:
        for setting, found in results.get("study", {}).items():
            if "against_recipe" in found:
                gain, models = found["against_recipe"]["average"], found["rl"]
                tokens = f"{sum(model['tokens'] for model in models) / len(models):.0f}"
                finer = (stricter(models, name) for name in ("acc_75", "acc_90"))
                yield setting.partition("_")[2], points(gain), points_by_seed(gain), *finer, tokens

    return markdown([("RL", "against the recipe's", "of each seed", "IoU > 0.75", "IoU > 0.9", "tokens"), *rows()])


def amodal(results: dict) -> str:
    """Accuracy on amodal boxes at two IoU thresholds: the base finds many of them exactly."""
    split = SPLITS["amodal"]

    def rows() -> Iterator[Sequence[object]]:
        for rung, training, found in trained(results):
            models = list(found.values())
            if "acc_90" in models[0]["splits"][split]:
                exact = spread([model["splits"][split]["acc_90"] for model in models], None)
                yield rung, ANSWERS[training], accuracy(found, lambda model: model["splits"][split]), exact

    return markdown([("model", "answers", "amodal, IoU > 0.5", "IoU > 0.9"), *rows()])


def budgets(results: dict) -> str:
    rows = (
        (model, way, spread([found["average"]["acc"]], found["average"]["interval"]), f"{found['tokens']:.0f}")
        for model, ways in results["budgets"].items()
        for way, found in ways.items()
    )
    return markdown([("model", "reasoning", "average", "tokens"), *rows])


TABLES: dict[str, Callable[[dict], str]] = {
    "ladder": ladder,
    "differences": differences,
    "kinds": kinds,
    "oracle": oracle,
    "ablations": ablations,
    "budgets": budgets,
    "study": study,
    "compared": compared,
    "amodal": amodal,
}


def of_results(name: str, results: dict) -> str:
    return TABLES[name](results)


def all_tables(results: dict) -> str:
    """Every table that the results have rows for, under its name."""
    tables = {name: make(results) for name, make in TABLES.items()}
    return "\n\n".join(f"{name}\n\n{rows}" for name, rows in tables.items() if len(rows.splitlines()) > 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "file", type=Path, nargs="?", help="print all tables of this file, and leave the README as it is"
    )
    args = parser.parse_args()
    readme, collected = FOLDER / "README.md", args.file or FOLDER / "results.json"
    if not collected.is_file():
        raise InputError(f"{collected}: expected the output of examples.longer_vs_bigger.collect, found no file")
    results, text = json.loads(collected.read_text()), readme.read_text()
    if args.file:
        print(all_tables(results))
        return
    if not any(f"<!-- {name} -->" in text for name in TABLES):
        raise InputError(f"{readme}: expected a place for a table, such as `<!-- ladder -->` and `<!-- end -->`")
    readme.write_text(fill(text, partial(of_results, results=results)))


if __name__ == "__main__":
    cli(main)

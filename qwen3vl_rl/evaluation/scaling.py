"""Test-time scaling: one model under several token budgets and numbers of answers, against latency and tokens.

    python -m qwen3vl_rl.evaluation.scaling run --data DIR --images DIR --out OUT --model egm=PATH \\
        --budget 0 32 128 --answers 4 8
    python -m qwen3vl_rl.evaluation.scaling draw images/tradeoff.png [OUT…]

`run` evaluates each model as it is (`free`), with a budget for its reasoning, after which the answer is forced
(`budget-32`; 0 is an answer without reasoning), and with several sampled answers of which the medoid counts
(`answers-4`). Each is an evaluation of its own in OUT/MODEL/, resumed like any other. It ends in a table and in
OUT/tradeoff.png. `draw` draws such results again, beside the published points; without any, these alone.
"""

import argparse
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from qwen3vl_rl.data.files import alone_in
from qwen3vl_rl.errors import InputError
from qwen3vl_rl.evaluation import command
from qwen3vl_rl.evaluation.reporting import table_formats as formats
from qwen3vl_rl.evaluation.reporting.tradeoff import Measured, draw
from qwen3vl_rl.evaluation.run import Result, Run, missing_part, read_result
from qwen3vl_rl.evaluation.scoring import published
from qwen3vl_rl.evaluation.scoring.metrics import AVERAGE
from qwen3vl_rl.evaluation.serving.questions import read_questions
from qwen3vl_rl.evaluation.serving.settings import Settings
from qwen3vl_rl.evaluation.table import DASH, mark, notes

_VARIANT = re.compile(r"free|(?:budget|answers)-\d+")
SAMPLED = {"temperature": 0.7, "top_p": 0.9, "top_k": 50}  # egm recipe, stage 2: how rollouts are drawn


def variants(settings: Settings, budgets: Iterable[int], answers: Iterable[int]) -> dict[str, Settings]:
    """Name -> settings of each way to run a model. Several answers are sampled as rollouts are, unless told how."""
    sampling = {} if settings.temperature else SAMPLED
    return {
        "free": settings,
        **{f"budget-{budget}": replace(settings, reasoning_tokens=budget) for budget in budgets},
        **{f"answers-{count}": replace(settings, answers=count, **sampling) for count in answers},
    }


def read_scaling(out: Path) -> dict[str, list[Result]]:
    """Model -> results of all its finished variants. Raises InputError where there are none."""
    found: dict[str, list[Result]] = {}
    folders = sorted((folder for folder in out.glob("*/*") if _VARIANT.fullmatch(folder.name)), key=_order)
    for folder in (folder for folder in folders if not missing_part(folder)):
        found.setdefault(folder.parent.name, []).append(read_result(folder))
    if not found:
        raise InputError(f"{out}: expected results of `scaling run`, found none")
    return found


def measure(results: dict[str, list[Result]]) -> list[Measured]:
    """One point a variant: budgets and the free run share a line, so do numbers of answers."""
    points = []
    for model, variants_of in results.items():
        by_kind = {False: "", True: ", several answers"}
        for several, suffix in by_kind.items():
            points += [
                _point(model + suffix, result)
                for result in variants_of
                if result.name.startswith("answers-") == several
            ]
    return points


def scaling_table(results: dict[str, list[Result]]) -> formats.Table:
    header = ("model", "variant", "Acc@0.5", "95 %", "tokens", "latency", "p95")
    rows = []
    for model, variants_of in results.items():
        for result in variants_of:
            average, latency = result.summary["average"], result.timing["latency"].get(AVERAGE)
            interval = average["acc_interval"]
            shown = [
                f"{100 * average['acc']:.1f}{mark(result, AVERAGE)}",
                DASH.join(f"{100 * end:.1f}" for end in interval or ()),
            ]
            shown += [f"{average['mean_tokens']:.1f}"]
            shown += [f"{latency['mean_s']:.2f} s", f"{latency['p95_s']:.2f} s"] if latency else ["", ""]
            rows.append((model, result.name, *shown))
    return formats.Table("Test-time scaling, average over the splits", header, rows, texts=2)


def is_on_refcoco(results: dict[str, list[Result]]) -> bool:
    """Whether published points may stand beside: all eight splits, each of them whole, and nothing else."""
    everything = [result for variants_of in results.values() for result in variants_of]
    names = set(published.splits())
    return all(set(one.summary["average"]["of"]) == names and not mark(one, AVERAGE) for one in everything)


def _order(folder: Path) -> tuple[str, bool, str, int]:
    """By model; `free` first, then numbers of answers and budgets, each from few to many."""
    kind, _, number = folder.name.partition("-")
    return folder.parent.name, bool(number), kind, int(number or 0)


def _point(curve: str, result: Result) -> Measured:
    average, latency = result.summary["average"], result.timing["latency"].get(AVERAGE)
    if latency is None:
        raise InputError(f"{result.name}: every request failed, so there is no latency to draw")
    label = result.name.removeprefix("budget-").removeprefix("answers-")
    return Measured(curve, label, average["mean_tokens"], latency["mean_s"], average["acc"], average["acc_interval"])


def run(args: argparse.Namespace) -> None:
    settings, load, models = command.settings(args), command.load(args), command.named(args.model, "--model")
    ways = variants(settings, args.budget, args.answers)
    questions = read_questions(args.data, args.images, args.split, args.limit)
    with alone_in(args.out), command.server(args, settings, questions) as server:
        runs = [
            Run(args.out / name / way, model, questions, changed, server)
            for name, model in models.items()
            for way, changed in ways.items()
        ]
        for one in runs:
            one.complete(args.images, load)
    results = read_scaling(args.out)
    everything = [result for variants_of in results.values() for result in variants_of]
    print("\n".join(["", formats.text(scaling_table(results)), "", *notes(everything)]))
    draw_results(args.out / "tradeoff.png", [args.out])


def draw_results(path: Path, folders: Sequence[Path]) -> None:
    results: dict[str, list[Result]] = {}
    for folder in folders:
        for model, ways in read_scaling(folder).items():
            if model in results:
                raise InputError(f"{folder}: expected models of other names than those before, found {model} again")
            results[model] = ways
    draw(path, measure(results), with_published=is_on_refcoco(results))
    print(f"figure: {path}")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m qwen3vl_rl.evaluation.scaling",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="run | draw")
    running = commands.add_parser("run", help="evaluate and draw")
    command.add_arguments(running)
    running.add_argument("--budget", type=int, nargs="*", default=[], metavar="TOKENS", help="of reasoning; 0: none")
    running.add_argument("--answers", type=int, nargs="*", default=[], metavar="N", help="sampled per question")
    running.set_defaults(work=run)
    drawing = commands.add_parser("draw", help="draw what is there")
    drawing.add_argument("figure", type=Path, help="such as images/tradeoff.png")
    drawing.add_argument("folders", type=Path, nargs="*", metavar="OUT", help="of finished runs")
    drawing.set_defaults(work=lambda args: draw_results(args.figure, args.folders))
    args = parser.parse_args()
    args.work(args)


if __name__ == "__main__":
    command.run(main)

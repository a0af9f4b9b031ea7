"""Tables of the results: fill those of the pages, or print every table in full.

    python -m benchmarks.tables                         # fill docs/performance.md and docs/log/
    python -m benchmarks.tables --print [NAME …] | less -S

On a page, a table stands between `<!-- NAME -->` and `<!-- end -->`. NAME is one of `HEADLINES` in `headlines.py`,
which shows the rows that `headlines.yaml` selects, or one of `TABLES`, which shows every row of the files that match
its pattern. Results of a CPU on which a script was only tried out are not kept.
"""

import argparse
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import fmean

from benchmarks.formats import Lines, columns, device, engine, interval, markdown, milliseconds, rollout_engine
from benchmarks.headlines import HEADLINES, evaluation_rows, latencies, paper_latencies, token_heads
from benchmarks.planner import tables as planner
from benchmarks.results import BASE, FOLDER, read_result
from qwen3vl_rl.grounding import parser_name

DOCS = Path(__file__).parents[1] / "docs"
PAGES = DOCS / "performance.md", DOCS / "serving.md", *sorted((DOCS / "log").glob("*.md"))
ENGINES = ("sglang", "vllm")
Results = Sequence[tuple[Path, dict]]


def ratio(row: dict, group: Sequence[dict]) -> str:
    """`1.50 [1.40, 1.60] times first` for a row that holds `speed_relative_to_first`, `1` for the first row of its
    group, and nothing for a row that was compared with no other."""
    prefix = "speed_relative_to_"
    found = [
        f"{interval(value)} times {key.removeprefix(prefix)}" for key, value in row.items() if key.startswith(prefix)
    ]
    return ", ".join(found) or ("1" if row is group[0] and len(group) > 1 else "")


def failed(row: dict) -> str:
    """The type of the error alone: its message has many lines."""
    return f"failed: {row['error'].partition(': ')[0]}"


def sft(results: Results) -> Lines:
    head = (
        *("device", "shape", "state", "tokens an update", "configuration"),
        *("GPU busy", "samples/s", "tokens/s", "MFU", "peak GiB", "speed"),
    )
    return [head, *(line for _, result in results for line in _sft_rows(result))]


def _sft_rows(result: dict) -> Iterator[Sequence[object]]:
    for group, row in ((some, row) for some in result["groups"] for row in some):
        name = row["name"] + (", flash-attn installed" if "flash-attn" in result["versions"] else "")
        what = [device(result), result["size"], result["state"], round(result["per_update"]["tokens"]), name]
        if "step_s" not in row:
            yield [*what, failed(row), *[""] * 5]
            continue
        what.append(f"{row['device_s'] / row['step_s']['median']:.0%}")
        speed = f"{row['samples_per_s']:.1f}", f"{row['tokens_per_s']:.0f}"
        yield [*what, *speed, f"{row['mfu']:.1%}", row["peak_memory_gib"], ratio(row, group)]


def sft_scaling(results: Results) -> Lines:
    head = (
        *("device", "shape", "samples an update", "GPUs", "each holds"),
        *("step s", "tokens/s", "GiB", "speed", "losses differ by"),
    )
    rows = (line for _, result in results for line in _scaling_rows(result))
    return [head, *sorted(rows, key=lambda row: (row[0], row[2]))]


def _scaling_rows(result: dict) -> Iterator[Sequence[object]]:
    for run in result["runs"]:
        whole = run["gpus"] == 1 or "engine.no_shard=true" in run.get("set", result["set"])
        what = device(result), result["size"], result["samples"], run["gpus"], "the model" if whole else "a shard"
        memory = ", ".join(str(gib) for gib in run["gpu_peak_gib"][: run["gpus"]])
        speed = f"{run['tokens_per_s']['median']:.0f}", memory, ratio(run, result["runs"])
        differ = f"{run['loss_difference_max']:.2%} at most" if "loss_difference_max" in run else ""
        yield [*what, interval(run["step_s"]), *speed, differ]


def attention(results: Results) -> Lines:
    head = (
        *("device", "shape", "tokens", "passes", "configuration"),
        *("ms", "GPU ms", "GiB without weights", "speed", "outputs differ"),
    )
    return [head, *(line for _, result in results for line in _attention_rows(result))]


def _attention_rows(result: dict) -> Iterator[Sequence[object]]:
    kinds = {"images": "vision tower, forward", "text": "language model, forward and backward"}
    for kind, row in ((some, row) for some in kinds for row in result[some]):
        what = device(result), result["size"], result["tokens"], kinds[kind], row["name"]
        if "step_s" not in row:
            yield [*what, failed(row), *[""] * 4]
            continue
        times = f"{1000 * row['step_s']['median']:.1f}", f"{1000 * row['device_s']:.1f}", row["peak_memory_gib"]
        yield [*what, *times, ratio(row, result[kind]), f"{row['difference']:.1%}" if row["difference"] else ""]


def shared_prompts(results: Results) -> Lines:
    head = (
        *("run", "prompts computed", "tokens", "update s", "forward s"),
        *("GiB", "gradient error", "speed, update, forward"),
    )
    return [head, *(line for _, result in results for line in _shared_rows(result))]


def _shared_rows(result: dict) -> Iterator[Sequence[object]]:
    for row in result["rows"]:
        yield (
            f"{device(result)}, {result['size']}, {result['prompts']} x {result['answers']}",
            {"samples": "for each answer", "shared": "once"}[row["way"]],
            row["tokens"],
            *(f"{row[name]['median']:.2f}" for name in ("update_s", "forward_s")),
            row.get("peak_memory_gib", ""),
            "{median:.4f}, at most {max:.3f}".format(**row["gradient_error"]),
            ", ".join(f"{row[name]['median']:.2f}" for name in ("update_times_faster", "forward_times_faster")),
        )


def latency(results: Results) -> Lines:
    rows = [
        [device(result), result["size"], engine(result), result["prompt_tokens"], *latencies(result)]
        for _, result in results
    ]
    rows += [["", name, "", "", *found] for name, found in paper_latencies()]
    return [["device", "model", "engine", "prompt tokens", *token_heads()], *rows]


def throughput(results: Results) -> Lines:
    head = (
        *("device", "model", "engine", "requests in flight"),
        *("answer tokens", "requests/s", "tokens/s", "median s", "95 % below s"),
    )
    return [head, *(line for _, result in results for line in _throughput_rows(result))]


def _throughput_rows(result: dict) -> Iterator[Sequence[object]]:
    for row in result["throughput"]:
        rates = f"{row['requests_per_s']:.1f}", f"{row['answer_tokens_per_s']:.0f}"
        waits = f"{row['latency_s']['median']:.2f}", f"{row['latency_s']['p95']:.2f}"
        what = device(result), result["size"], engine(result), row["concurrency"], row["answer_tokens"]
        yield [*what, *rates, *waits]


def grpo(results: Results) -> Lines:
    phases = ("gen", "old_log_prob", "ref", "update_actor", "update_weights")
    head = ("run", "settings", "step s", *phases, "tokens/s", "MFU of update, verl's", "GPU GiB", "speed")
    rows = (line for _, result in results for line in _grpo_rows(result, phases))
    return [head, *([str(cell).replace(BASE, "base") for cell in row] for row in rows)]


def _grpo_rows(result: dict, phases: Sequence[str]) -> Iterator[Sequence[object]]:
    on_cpu = result["settings"]["hardware"] == "cpu"
    run, asynchronous = _grpo_run(result), is_asynchronous(result)
    ran = [row for row in result["variants"] if "steps" in row]
    for row in result["variants"]:
        if row not in ran:
            yield [run, row["variant"], f"failed: {(row['error'] or '').strip()[-120:]}", *[""] * (len(phases) + 4)]
            continue
        times = [f"{row['phases_s'][phase]['median']:.2f}" if phase in row["phases_s"] else "" for phase in phases]
        mfu = f"{row['mfu_update']['median']:.1%}" if row["mfu_update"] and not on_cpu else ""
        memory = ", ".join(map(str, row["gpu_peak_gib"]))
        step_s = row["step_s"]
        if asynchronous:  # long and short steps alternate: the mean of equally many of both
            step_s = step_s | {"median": fmean(row["steps"][: len(row["steps"]) // 2 * 2])}
        cut = f", cut short after {len(row['steps'])} steps" if row["error"] else ""
        yield [
            run,
            row["variant"] + ", prompts shared" * row.get("share_prompts", False) + cut,
            interval(step_s),
            *times,
            f"{row['tokens_per_step']['median'] / step_s['median']:.0f}",
            mfu,
            memory,
            ratio(row, ran),
        ]


def _grpo_run(result: dict) -> str:
    """Device, model, engine and load: `1 x H100, 2b, vllm, 16 x 16 x 100`."""
    settings = result["settings"]
    count = "" if settings["hardware"] == "cpu" else f"{settings['gpus']} x "
    served = " ".join(rollout_engine(settings))
    load = " x ".join(str(settings[name]) for name in ("prompts", "samples_per_prompt", "answer_tokens"))
    run = f"{count}{device(result)}, {settings['size']}, {served}, {load}"
    return run + ", asynchronous" * is_asynchronous(result)


def is_asynchronous(result: dict) -> bool:
    return any(word.endswith("_async") for word in result["settings"]["set"])


def evaluation_client(results: Results) -> Lines:
    head = (
        *("file", "device", "requests"),
        *("answer tokens", "in flight", "client", "times as fast as a straightforward one"),
    )
    rows = (
        [path.stem, r["device"], r["requests"], r["max_tokens"], r["concurrency"], client, interval(found)]
        for path, r in results
        for client, found in r["ratio"].items()
    )
    return [head, *rows]


def evaluation_run(results: Results) -> Lines:
    """The requests per second of an evaluation, and what keeps it from more."""
    head = ("device", "model", "engine", "server", "in flight", "requests/s", "kernels run", "cores in use")
    return [head, *(line for _, result in results for line in evaluation_rows(result))]


def speculation(results: Results) -> Lines:
    head = ("device", "drafts", "tokens a step", "ms an answer", "times as fast, by question", "answers that differ")
    rows = (
        [
            device(result),
            way,
            f"{found['tokens_per_step']:.2f}",
            milliseconds(found["latency_s"]),
            interval(found["times_faster"]),
            f"{found['differing_answers']} of {result['questions']}",
        ]
        for _, result in results
        for way, found in result["ways"].items()
    )
    return [head, *rows]


def edge(results: Results) -> Lines:
    """Milliseconds of an answer on CPU cores, by size, runtime and length."""
    lengths = sorted({int(n) for _, result in results for row in result["rows"] for n in row["latency_s"]})
    head = ("device", "threads", "size", "runtime", *(f"{n} tokens, ms" for n in lengths), "transformers' tokens")
    rows = (
        [
            device(result),
            result["threads"],
            row["size"],
            row["runtime"],
            *(milliseconds(row["latency_s"][str(n)]) if str(n) in row["latency_s"] else "" for n in lengths),
            "yes" if row["same_tokens"] else "no",
        ]
        for _, result in results
        for row in result["rows"]
    )
    return [head, *rows]


def reward(results: Results) -> Lines:
    rows = (
        (row["answer"], row["words"], parser_name(row["parser"]), row["value"])
        for _, r in results
        for row in r["rewards_per_s"]
    )
    return [("answer", "words", "parser", "rewards/s on one core"), *rows]


def data(results: Results) -> Lines:
    rows = ((what, *row.values()) for _, result in results for what, row in result["results"].items())
    return [("work", "rows", "rows/s", "rows per CPU second", "peak MiB"), *rows]


def learning(results: Results) -> Lines:
    """Accuracy on held-out samples before GRPO and after it, with rollouts of either engine."""
    head = ("trained on", "split", "SFT", *(f"RL, {name}" for name in ENGINES), *(f"{name} - SFT" for name in ENGINES))
    return [head, *(line for _, result in results for line in _learning_rows(result))]


def _learning_rows(result: dict) -> Iterator[Sequence[object]]:
    found = result["held_out"]
    models = [found["models"][name] for name in ("sft", *(f"rl_{name}" for name in ENGINES))]
    gains = [found["rl_minus_sft_percentage_points"][name] for name in ENGINES]
    for split in gains[0]:
        accuracies = (100 * (model["splits"] | {"average": model["average"]})[split]["acc"] for model in models)
        points = (_points(*(gain[split][key] for key in ("difference", "low", "high"))) for gain in gains)
        yield [device(result), _split(split), *(f"{accuracy:.1f}" for accuracy in accuracies), *points]


def engines(results: Results) -> Lines:
    """Accuracy of one checkpoint, served by either engine."""
    head = ("device", "split", *reversed(ENGINES), "sglang - vllm")
    return [head, *(line for _, result in results for line in _engine_rows(result))]


def _engine_rows(result: dict) -> Iterator[Sequence[object]]:
    served = [result["engines"][name] for name in reversed(ENGINES)]
    for split, gain in result["sglang_minus_vllm"].items():
        accuracies = (100 * (found["splits"] | {"average": found["average"]})[split]["acc"] for found in served)
        points = _points(*(100 * value for value in (gain["difference"], *gain["interval"])))
        yield [device(result), _split(split), *(f"{accuracy:.1f}" for accuracy in accuracies), points]


def _split(name: str) -> str:
    return name.removeprefix("refshapes_").replace("_", " ")


def _points(difference: float, low: float, high: float) -> str:
    return f"{difference:+.1f} ({low:+.1f} to {high:+.1f})"


def origins(results: Results) -> Lines:
    """Where every result that records a command comes from."""
    head = ("file", "device", "commit", "other work on the host", "versions", "command")
    rows = (
        (
            path.name,
            result["device"],
            _commit(result),
            result.get("beside", "not recorded"),
            _pairs(result.get("versions", {})),
            f"`{result['command']}`",
        )
        for path, result in results
        if "command" in result
    )
    return [head, *rows]


def _commit(result: dict) -> str:
    """The commit of the result, or of its parts; `unknown` where none is recorded."""
    return ", ".join(dict.fromkeys(_commits(result))) or _pairs(result.get("commits", {})) or "unknown"


def _commits(value: object) -> Iterator[str]:
    if isinstance(value, dict) and "commit" in value:
        yield value["commit"] + (" with changes" if value.get("dirty") else "")
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for part in parts:
        yield from _commits(part)


def _pairs(found: dict[str, str]) -> str:
    return " ".join(f"{name} {value}" for name, value in found.items())


TABLES: dict[str, tuple[str, Callable[[Results], Lines]]] = {
    "sft": ("sft_throughput_*.json", sft),
    "sft-scaling": ("sft_scaling_*.json", sft_scaling),
    "attention": ("attention_*.json", attention),
    "shared-prompts": ("shared_prompts_*.json", shared_prompts),
    "latency": ("serving_*.json", latency),
    "throughput": ("serving_*.json", throughput),
    "evaluation-client": ("eval_client_*.json", evaluation_client),
    "evaluation-run": ("eval_run_*.json", evaluation_run),
    "speculation": ("speculation_*.json", speculation),
    "edge": ("edge_*.json", edge),
    "grpo": ("grpo_*.json", grpo),
    "learning": ("learning_*.json", learning),
    "engines": ("engines_*.json", engines),
    "reward": ("reward_*.json", reward),
    "data": ("data_*.json", data),
    "predictions": ("", lambda _: planner.predictions()),
    "fewest": ("", lambda _: planner.fewest_gpus()),
    "origins": ("*.json", origins),
}


def fill(page: str, make: Callable[[str], str]) -> str:
    """`page` with the text that `make` returns for each name between its marks."""

    def made(match: re.Match) -> str:
        return f"<!-- {match[1]} -->\n{make(match[1])}\n<!-- end -->"

    return re.sub(r"<!-- ([\w -]+) -->\n.*?<!-- end -->", made, page, flags=re.DOTALL)


def of_folder(name: str, folder: Path = FOLDER) -> Lines:
    """The table `name` with every row of the results in `folder`. Raises KeyError for a name that `TABLES` lacks."""
    pattern, make = TABLES[name]
    results = [(path, read_result(path)) for path in sorted(folder.glob(pattern))] if pattern else []
    return make(results) if results or not pattern else [("not measured yet",)]


def on_page(name: str) -> str:
    """What a page shows between the marks of `name`."""
    return HEADLINES[name]() if name in HEADLINES else markdown(of_folder(name))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--print", nargs="*", metavar="NAME", help=f"print these tables, or all: {', '.join(TABLES)}")
    names = parser.parse_args().print
    if names is None:
        for page in PAGES:
            page.write_text(fill(page.read_text(), on_page))
        return
    if unknown := [name for name in names if name not in TABLES]:
        parser.error(f"--print: expected one of {', '.join(TABLES)}, got {unknown[0]}")
    for name in names or TABLES:
        print(f"{name} ({TABLES[name][0] or 'planner'})", columns(of_folder(name)), "", sep="\n")


if __name__ == "__main__":
    main()

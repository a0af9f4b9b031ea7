"""Fill the tables of benchmarks/README.md from the files in results/: python -m benchmarks.tables

A table stands between `<!-- NAME -->` and `<!-- end -->`, and holds what `TABLES[NAME]` makes of the files that match
its pattern; without a file it says so. Results of a CPU on which a script was only tried out are not kept.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean

from benchmarks.planner import tables as planner
from benchmarks.results import FOLDER, read_result
from qwen3vl_rl.grounding import parser_name

README = Path(__file__).parent / "README.md"
TOKENS = (1, 15, 50, 100, 200, 500)
PAPER = "EGM-8B, as the paper prints it", "Qwen3-VL-235B-Instruct, as the paper prints it"
ENGINES = ("sglang", "vllm")
BASE = "resident+chunked+on-policy+fused-adamw"  # in most variants of GRPO, and too long to read in each row
Results = Sequence[tuple[Path, dict]]


def table(head: Sequence[str], rows: Iterator[Sequence[object]]) -> str:
    return draw([head, *rows])


def draw(lines: Sequence[Sequence[object]]) -> str:
    """A table in Markdown, of its head and its rows."""
    head, *rows = lines
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(str(cell) for cell in line)} |" for line in lines)


def between(found: dict[str, float], digits: int = 2) -> str:
    return f"{found['median']:.{digits}f} [{found['min']:.{digits}f}, {found['max']:.{digits}f}]"


def ratio(row: dict, group: Sequence[dict]) -> str:
    """`1.50 [1.40, 1.60] times first`, of a result that holds `speed_relative_to_first`; 1 for that first; nothing for
    one that was compared with none."""
    prefix = "speed_relative_to_"
    found = [
        f"{between(value)} times {key.removeprefix(prefix)}" for key, value in row.items() if key.startswith(prefix)
    ]
    return ", ".join(found) or ("1" if row is group[0] and len(group) > 1 else "")


def device(result: dict) -> str:
    """`H100` of `2 x NVIDIA H100 80GB HBM3`; `CPU` of what is no GPU."""
    found = re.search(r"NVIDIA (\w+)", result["device"])
    return found[1] if found else "CPU"


def failed(row: dict) -> str:
    """The kind of its error, which has many lines."""
    return f"failed: {row['error'].partition(': ')[0]}"


def sft(results: Results) -> str:
    head = (
        *("device", "shape", "state", "tokens an update", "configuration"),
        *("GPU busy", "samples/s", "tokens/s", "MFU", "peak GiB", "speed"),
    )
    return table(head, (line for _, result in results for line in _sft_rows(result)))


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


def sft_scaling(results: Results) -> str:
    head = (
        *("device", "shape", "samples an update", "GPUs", "each holds"),
        *("step s", "tokens/s", "GiB", "speed", "losses differ by"),
    )
    rows = (line for _, result in results for line in _scaling_rows(result))
    return table(head, iter(sorted(rows, key=lambda row: (row[0], row[2]))))


def _scaling_rows(result: dict) -> Iterator[Sequence[object]]:
    for run in result["runs"]:
        whole = run["gpus"] == 1 or "engine.no_shard=true" in run.get("set", result["set"])
        what = device(result), result["size"], result["samples"], run["gpus"], "the model" if whole else "a shard"
        memory = ", ".join(str(gib) for gib in run["gpu_peak_gib"][: run["gpus"]])
        speed = f"{run['tokens_per_s']['median']:.0f}", memory, ratio(run, result["runs"])
        differ = f"{run['loss_difference_max']:.2%} at most" if "loss_difference_max" in run else ""
        yield [*what, between(run["step_s"]), *speed, differ]


def attention(results: Results) -> str:
    head = (
        *("device", "shape", "tokens", "passes", "configuration"),
        *("ms", "GPU ms", "GiB beside weights", "speed", "outputs differ"),
    )
    return table(head, (line for _, result in results for line in _attention_rows(result)))


def shared_prompts(results: Results) -> str:
    head = (
        "run",
        "prompts computed",
        "tokens",
        "update s",
        "forward s",
        "GiB",
        "gradient error",
        "speed, update, forward",
    )
    rows = (
        (
            f"{device(result)}, {result['size']}, {result['prompts']} x {result['answers']}",
            {"samples": "for each answer", "shared": "once"}[row["way"]],
            row["tokens"],
            *(f"{row[name]['median']:.2f}" for name in ("update_s", "forward_s")),
            row.get("peak_memory_gib", ""),
            "{median:.4f}, at most {max:.3f}".format(**row["gradient_error"]),
            ", ".join(f"{row[name]['median']:.2f}" for name in ("update_times_faster", "forward_times_faster")),
        )
        for _, result in results
        for row in result["rows"]
    )
    return table(head, rows)


def _attention_rows(result: dict) -> Iterator[Sequence[object]]:
    kinds = {"images": "vision tower, forward", "text": "language model, forward and backward"}
    for kind, row in ((some, row) for some in kinds for row in result[some]):
        what = device(result), result["size"], result["tokens"], kinds[kind], row["name"]
        if "step_s" not in row:
            yield [*what, failed(row), *[""] * 4]
            continue
        times = f"{1000 * row['step_s']['median']:.1f}", f"{1000 * row['device_s']:.1f}", row["peak_memory_gib"]
        yield [*what, *times, ratio(row, result[kind]), f"{row['difference']:.1%}" if row["difference"] else ""]


def latency(results: Results) -> str:
    rows = [
        [device(result), result["size"], _engine(result), result["prompt_tokens"], *_latencies(result)]
        for _, result in results
    ]
    rows += [
        ["", PAPER[0], "", "", *[""] * 3, "737 (at 101 tokens)", "", ""],
        ["", PAPER[1], "", "", *[""] * 3, "4,320 (length not known)", "", ""],
    ]
    return table(["device", "model", "engine", "prompt tokens", *(f"{tokens} tokens" for tokens in TOKENS)], iter(rows))


def _engine(result: dict) -> str:
    """With its attention, where the command chose one."""
    chosen = re.search(r"--attention-backend (\S+)", result["command"])
    return f"{result['engine']}, {chosen[1]}" if chosen else result["engine"]


def _latencies(result: dict) -> list[str]:
    found = {row["answer_tokens"]: row["latency_s"] for row in result["latency"]}
    return [between({k: 1000 * v for k, v in found[n].items()}, 0) if n in found else "" for n in TOKENS]


def throughput(results: Results) -> str:
    head = (
        *("device", "model", "engine", "requests in flight"),
        *("answer tokens", "requests/s", "tokens/s", "median s", "95 % below s"),
    )
    return table(head, (line for _, result in results for line in _throughput_rows(result)))


def _throughput_rows(result: dict) -> Iterator[Sequence[object]]:
    for row in result["throughput"]:
        rates = f"{row['requests_per_s']:.1f}", f"{row['answer_tokens_per_s']:.0f}"
        waits = f"{row['latency_s']['median']:.2f}", f"{row['latency_s']['p95']:.2f}"
        what = device(result), result["size"], _engine(result), row["concurrency"], row["answer_tokens"]
        yield [*what, *rates, *waits]


def grpo(results: Results) -> str:
    phases = ("gen", "old_log_prob", "ref", "update_actor", "update_weights")
    head = ("run", "settings", "step s", *phases, "tokens/s", "MFU of update, verl's", "GPU GiB", "speed")
    rows = table(head, (line for _, result in results for line in _grpo_rows(result, phases)))
    return rows.replace(BASE, "base")


def _grpo_rows(result: dict, phases: Sequence[str]) -> Iterator[Sequence[object]]:
    size, engine, gpus, prompts, samples, tokens = (
        result["settings"][name]
        for name in ("size", "engine", "gpus", "prompts", "samples_per_prompt", "answer_tokens")
    )
    on_cpu = result["settings"]["hardware"] == "cpu"
    attention = [word.partition("attention_backend=")[2] for word in result["settings"]["set"]]
    engine = " ".join([engine, *filter(None, attention)])
    run = f"{'' if on_cpu else f'{gpus} x '}{device(result)}, {size}, {engine}, {prompts} x {samples} x {tokens}"
    asynchronous = any(word.endswith("_async") for word in result["settings"]["set"])
    run += ", asynchronous" if asynchronous else ""
    ran = [row for row in result["variants"] if "steps" in row]
    for row in result["variants"]:
        if row not in ran:
            yield [run, row["variant"], f"failed: {(row['error'] or '').strip()[-120:]}", *[""] * (len(phases) + 4)]
            continue
        times = [f"{row['phases_s'][phase]['median']:.2f}" if phase in row["phases_s"] else "" for phase in phases]
        mfu = f"{row['mfu_update']['median']:.1%}" if row["mfu_update"] and not on_cpu else ""
        memory = ", ".join(map(str, row["gpu_peak_gib"]))
        step_s = row["step_s"]
        if asynchronous:  # longer and shorter steps take turns: the mean of as many of either
            step_s = step_s | {"median": fmean(row["steps"][: len(row["steps"]) // 2 * 2])}
        cut = f", cut short after {len(row['steps'])} steps" if row["error"] else ""
        yield [
            run,
            row["variant"] + ", prompts shared" * row.get("share_prompts", False) + cut,
            between(step_s),
            *times,
            f"{row['tokens_per_step']['median'] / step_s['median']:.0f}",
            mfu,
            memory,
            ratio(row, ran),
        ]


def evaluation_client(results: Results) -> str:
    head = (
        *("file", "device", "requests"),
        *("answer tokens", "in flight", "client", "times as fast as a straightforward one"),
    )
    rows = (
        [path.stem, r["device"], r["requests"], r["max_tokens"], r["concurrency"], client, between(found)]
        for path, r in results
        for client, found in r["ratio"].items()
    )
    return table(head, rows)


def reward(results: Results) -> str:
    rows = (
        (row["answer"], row["words"], parser_name(row["parser"]), row["value"])
        for _, r in results
        for row in r["rewards_per_s"]
    )
    return table(("answer", "words", "parser", "rewards/s on one core"), rows)


def data(results: Results) -> str:
    rows = ((what, *row.values()) for _, result in results for what, row in result["results"].items())
    return table(("work", "rows", "rows/s", "rows per CPU second", "peak MiB"), rows)


def learning(results: Results) -> str:
    """Accuracy on held-out samples before GRPO and after it, with rollouts of either engine."""
    head = ("trained on", "split", "SFT", *(f"RL, {engine}" for engine in ENGINES), *(f"{e} - SFT" for e in ENGINES))
    return table(head, (line for _, result in results for line in _learning_rows(result)))


def _learning_rows(result: dict) -> Iterator[Sequence[object]]:
    found = result["held_out"]
    models = [found["models"][name] for name in ("sft", *(f"rl_{engine}" for engine in ENGINES))]
    gains = [found["rl_minus_sft_percentage_points"][engine] for engine in ENGINES]
    for split in gains[0]:
        accuracies = (100 * (model["splits"] | {"average": model["average"]})[split]["acc"] for model in models)
        points = (_points(*(gain[split][key] for key in ("difference", "low", "high"))) for gain in gains)
        yield [device(result), _split(split), *(f"{accuracy:.1f}" for accuracy in accuracies), *points]


def engines(results: Results) -> str:
    """Accuracy of one checkpoint, served by either engine."""
    head = ("device", "split", *reversed(ENGINES), "sglang - vllm")
    return table(head, (line for _, result in results for line in _engine_rows(result)))


def _engine_rows(result: dict) -> Iterator[Sequence[object]]:
    served = [result["engines"][engine] for engine in reversed(ENGINES)]
    for split, gain in result["sglang_minus_vllm"].items():
        accuracies = (100 * (found["splits"] | {"average": found["average"]})[split]["acc"] for found in served)
        points = _points(*(100 * value for value in (gain["difference"], *gain["interval"])))
        yield [device(result), _split(split), *(f"{accuracy:.1f}" for accuracy in accuracies), points]


def _split(name: str) -> str:
    return name.removeprefix("refshapes_").replace("_", " ")


def _points(difference: float, low: float, high: float) -> str:
    return f"{difference:+.1f} ({low:+.1f} to {high:+.1f})"


def origins(results: Results) -> str:
    """Device, commit, versions and command of every result, as far as it tells."""
    head = ("file", "device", "commit", "versions", "command")
    rows = (
        (path.name, result["device"], _commit(result), _pairs(result.get("versions", {})), f"`{result['command']}`")
        for path, result in results
        if "command" in result
    )
    return table(head, rows)


def _commit(result: dict) -> str:
    """Of the whole, or of its parts; `unknown` where nothing tells."""
    return ", ".join(dict.fromkeys(_commits(result))) or _pairs(result.get("commits", {})) or "unknown"


def _commits(value: object) -> Iterator[str]:
    if isinstance(value, dict) and "commit" in value:
        yield value["commit"] + (" with changes" if value.get("dirty") else "")
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for part in parts:
        yield from _commits(part)


def _pairs(found: dict[str, str]) -> str:
    return " ".join(f"{name} {value}" for name, value in found.items())


TABLES: dict[str, tuple[str, Callable[[Results], str]]] = {
    "sft": ("sft_throughput_*.json", sft),
    "sft scaling": ("sft_scaling_*.json", sft_scaling),
    "attention": ("attention_*.json", attention),
    "shared prompts": ("shared_prompts_*.json", shared_prompts),
    "latency": ("serving_*.json", latency),
    "throughput": ("serving_*.json", throughput),
    "evaluation client": ("eval_client_*.json", evaluation_client),
    "grpo": ("grpo_*.json", grpo),
    "learning": ("learning_*.json", learning),
    "engines": ("engines_*.json", engines),
    "reward": ("reward_*.json", reward),
    "data": ("data_*.json", data),
    "predictions": ("", lambda _: draw(planner.predictions())),
    "fewest": ("", lambda _: draw(planner.fewest_gpus())),
    "origins": ("*.json", origins),
}


def fill(readme: str, make: Callable[[str], str]) -> str:
    """`readme` with what `make` says of each name between its marks."""

    def made(match: re.Match) -> str:
        return f"<!-- {match[1]} -->\n{make(match[1])}\n<!-- end -->"

    return re.sub(r"<!-- ([\w ]+) -->\n.*?<!-- end -->", made, readme, flags=re.DOTALL)


def of_folder(name: str, folder: Path) -> str:
    """The table `name` of the results in `folder`. Raises KeyError where it is not in `TABLES`."""
    pattern, make = TABLES[name]
    results = [(path, read_result(path)) for path in sorted(folder.glob(pattern))] if pattern else []
    return make(results) if results or not pattern else "*Not measured yet.*"


def main() -> None:
    README.write_text(fill(README.read_text(), partial(of_folder, folder=FOLDER)))


if __name__ == "__main__":
    main()

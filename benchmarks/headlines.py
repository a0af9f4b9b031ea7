"""The headline tables of docs/performance.md, whose rows `headlines.yaml` selects from the results."""

import shlex
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import fmean, median
from typing import Any

import yaml

from benchmarks.formats import Lines, device, engine, interval, markdown, milliseconds, rollout_engine
from benchmarks.planner import tables as planner
from benchmarks.results import BASE, FOLDER, read_result
from benchmarks.spread import spread, times_faster
from qwen3vl_rl.errors import InputError

ROOT = Path(__file__).parents[1]
SELECTION = Path(__file__).with_suffix(".yaml")
PLAN = "python -m qwen3vl_rl.plan --gpu h100 size=8b hardware=node8"
TOKENS = (1, 42, 50, 101, 200, 500)  # answers of 100 tokens, as in older results, stand in the column of 101
WEIGHTS_TOKENS = (50, 101, 200)
MIN_CORES = 0.1  # processes that keep less busy are left out
PAPER_MS = {"EGM-8B, paper": "737 (at 101 tokens)", "Qwen3-VL-235B-Instruct, paper": "4,320 (length not known)"}
# Read off the axis of the paper's figure of accuracy against latency, about 3 % off; 737 is printed. One EGM answer has
# 50 to 101 tokens by the paper's teaser, an Instruct answer 42.
PAPER_FIGURE_MS = {"2b": (173, 287), "4b": (246, 489), "8b": (410, 737), "32b": ("", "")}
PHASES = {
    "gen": "generation",
    "old_log_prob": "old policy",
    "ref": "reference",
    "update_actor": "update",
    "update_weights": "weights to engine",
}
Choice = dict[str, Any]  # an entry of `headlines.yaml`: it selects one row of one result


def selected(name: str) -> list[Choice]:
    return yaml.safe_load(SELECTION.read_text())[name]


def result_of(choice: Choice) -> dict:
    return read_result(FOLDER / f"{choice['file']}.json")


def find(rows: Sequence[dict], choice: Choice, **expected: object) -> dict:
    """The first of `rows` whose fields equal `expected`. Raises InputError where there is none."""
    for row in rows:
        if expected.items() <= row.items():
            return row
    raise InputError(f"{SELECTION}: file {choice['file']}: expected a row with {expected}, found none")


def rows_of(result: dict) -> list[dict]:
    """The configurations of a result of `sft_throughput` or `grpo_step`, under the names that `headlines.yaml` uses."""
    if "groups" in result:
        return [row for group in result["groups"] for row in group]
    return [row | {"name": row["variant"].replace(BASE, "base")} for row in result["variants"]]


def seconds(row: dict) -> list[float]:
    """Of each round, or of each step."""
    return row["steps"] if "steps" in row else row["step_s"]["rounds"]


def times_as_fast(result: dict, choice: Choice, fast: str, slow: str) -> dict[str, float]:
    """How many times as fast the configuration `fast` is as `slow`: round by round within a group of `sft_throughput`,
    whose configurations take turns, and else over all pairs."""
    if "rows" in result:  # of `shared_prompts`, which compares by itself
        return find(result["rows"], choice, way=fast)["update_times_faster"]
    for group in result.get("groups", []):
        by_name = {row["name"]: row for row in group}
        if {fast, slow} <= by_name.keys():
            pairs = zip(seconds(by_name[fast]), seconds(by_name[slow]), strict=True)
            return spread(other / own for own, other in pairs)
    found = (seconds(find(rows_of(result), choice, name=name)) for name in (slow, fast))
    return times_faster(*found)


def plan() -> str:
    """The command that opens the page, and what it prints, without the indented lines that break each number down."""
    command = [sys.executable, *shlex.split(PLAN)[1:]]
    printed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    shown = "\n".join(line for line in printed.splitlines() if line and not line.startswith(" "))
    return f"```bash\n{PLAN}\n```\n\n```text\n{shown}\n```"


def stage_1() -> Lines:
    head = ("model", "GPUs", "trained by", "samples an update", "samples/s", "times as fast", "MFU", "GiB on each GPU")
    return [head, *map(_stage_1_row, selected("stage-1"))]


def _stage_1_row(choice: Choice) -> Sequence[object]:
    result = result_of(choice)
    if "gpus" in choice:
        row = find(result["runs"], choice, gpus=choice["gpus"])
        samples, memory_gib, mfu = result["samples"], max(row["gpu_peak_gib"]), ""
    else:
        row = find(rows_of(result), choice, name=choice["name"])
        samples, memory_gib, mfu = result["per_update"]["samples"], row["peak_memory_gib"], f"{row['mfu']:.1%}"
    faster = interval(times_as_fast(result, choice, choice["name"], choice["times"])) if "times" in choice else ""
    gpus = f"{choice.get('gpus', 1)} x {device(result)}"
    rate = interval(spread(samples / step_s for step_s in seconds(row)), 1)
    return _model(result["size"]), gpus, choice["label"], samples, rate, faster, mfu, f"{memory_gib:.0f}"


def stage_2() -> Lines:
    what = ("model", "GPUs", "engine", "settings", "prompts a step", "a prompt is computed")
    head = (*what, "step s", *(f"{name} s" for name in PHASES.values()))
    return [head, *map(_stage_2_row, selected("stage-2"))]


def _stage_2_row(choice: Choice) -> Sequence[object]:
    result = result_of(choice)
    settings = result["settings"]
    row = find(rows_of(result), choice, name=choice["variant"])
    phases = (f"{row['phases_s'][phase]['median']:.1f}" for phase in PHASES)
    gpus, served = f"{settings['gpus']} x {device(result)}", ", ".join(rollout_engine(settings))
    computed = "once" if row.get("share_prompts") else "for each answer"
    what = _model(settings["size"]), gpus, _engine_name(served), choice["label"], settings["prompts"], computed
    return *what, interval(row["step_s"]), *phases


def parts() -> Lines:
    head = ("stage", "part", "times as fast with it", "measured at", "to switch it off")
    return [head, *map(_part_row, selected("parts"))]


def _part_row(choice: Choice) -> Sequence[object]:
    result = result_of(choice)
    size = result.get("size") or result["settings"]["size"]
    faster = interval(times_as_fast(result, choice, choice["with"], choice["without"]))
    stage = 1 if "groups" in result else 2
    return stage, choice["part"], faster, f"{_model(size)}, {device(result)}", f"`{choice['override']}`"


def serving() -> Lines:
    results = map(result_of, selected("serving"))
    rows = [
        (_model(result["size"]), device(result), _engine_name(engine(result)), *latencies(result)) for result in results
    ]
    paper = [(name, "not named", "", *found) for name, found in paper_latencies()]
    return [("model", "device", "engine", *token_heads()), *rows, *paper]


def answers() -> Lines:
    """What answers without and with reasoning cost: alone and under load, next to the paper's figure."""
    head = ("model", *(f"{n} tokens, {what}" for n in (42, 101) for what in ("alone", "64 in flight")))
    rows = []
    for choice in selected("answers"):
        result = result_of(choice)
        alone = {row["answer_tokens"]: 1000 * row["latency_s"]["median"] for row in result["latency"]}
        cells = [ms for n in (42, 101) for ms in (f"{alone[n]:.0f}" if n in alone else "", _server_ms(result, n))]
        rows.append([_model(result["size"]), *cells, *PAPER_FIGURE_MS[result["size"]]])
    return [(*head, "paper, Instruct", "paper, EGM"), *rows]


def _server_ms(result: dict, tokens: int) -> str:
    """A second divided by the answers of a second, with 64 requests in flight; empty where it was not measured."""
    asked = {"answer_tokens": tokens, "concurrency": 64}
    rates = [row["requests_per_s"] for row in result["throughput"] if asked.items() <= row.items()]
    return f"{1000 / median(rates):.0f}" if rates else ""


def weights() -> Lines:
    """Latency and load of 8B with 16-bit weights, with 8-bit weights, and with drafts."""
    head = (
        "weights",
        *(f"{n} tokens, ms" for n in WEIGHTS_TOKENS),
        "times as fast at 101 tokens",
        "requests/s at 64 in flight",
    )
    return [head, *map(_weights_row, selected("weights"))]


def _weights_row(choice: Choice) -> Sequence[object]:
    found, first = result_of(choice), result_of(selected("weights")[0])
    latency_s = {row["answer_tokens"]: row["latency_s"] for row in found["latency"]}
    base_s = next(row["latency_s"] for row in first["latency"] if row["answer_tokens"] == 101)
    alone = [milliseconds(latency_s[n]) for n in WEIGHTS_TOKENS]
    faster = base_s["median"] / latency_s[101]["median"]
    rate = find(found["throughput"], choice, concurrency=64, answer_tokens=101)["requests_per_s"]
    return choice["label"], *alone, f"{faster:.2f}", f"{rate:.1f}"


def small_device() -> Lines:
    """Milliseconds of short and long answers on CPU cores: a line for each size, columns for each runtime."""
    (choice,) = selected("small-device")
    found = result_of(choice)["rows"]
    asked = [(runtime, str(n)) for runtime in choice["runtimes"] for n in choice["tokens"]]
    cells = {(row["size"], row["runtime"]): row["latency_s"] for row in found}
    lines = (
        [size, *(milliseconds(cells[size, runtime][n]) for runtime, n in asked)]
        for size in dict.fromkeys(row["size"] for row in found)
    )
    return [("size", *(f"{choice['runtimes'][runtime]}, {n} tokens" for runtime, n in asked)), *lines]


def token_heads() -> list[str]:
    return [f"{tokens} token{'s' * (tokens > 1)}" for tokens in TOKENS]


def latencies(result: dict) -> list[str]:
    """Milliseconds for each length of `TOKENS`; empty where a length was not measured."""
    found = {101 if (n := row["answer_tokens"]) == 100 else n: row["latency_s"] for row in result["latency"]}
    return [milliseconds(found[n]) if n in found else "" for n in TOKENS]


def paper_latencies() -> Iterator[tuple[str, list[str]]]:
    """By model, what the paper prints, in the column of 101 tokens."""
    for name, printed in PAPER_MS.items():
        yield name, [printed if tokens == 101 else "" for tokens in TOKENS]


def work() -> Lines:
    return [("work", "device", "rate", "also"), *map(_work_row, selected("work"))]


def evaluation() -> Lines:
    """Where evaluations spend their time."""
    head = ("model", "device", "engine", "flags of the server", "in flight", "requests/s", "GPU busy", "cores in use")
    lines = []
    for choice in selected("evaluation"):
        for gpu, size, served, flags, *rest in evaluation_rows(result_of(choice)):
            lines.append((_model(size), gpu, _engine_name(served), choice.get("label", flags), *rest))
    return [head, *lines]


def evaluation_rows(result: dict) -> Iterator[Sequence[object]]:
    """Device, model, engine, flags, and by requests in flight: requests per second, busy share of the GPU, and cores
    in use, by kind of process."""
    settings = result["settings"]
    shared = settings.get("servers_per_gpu", 1)
    words = [*(["--servers-per-gpu", str(shared)] if shared > 1 else []), *settings["server_arguments"]]
    flags = f"`{' '.join(words)}`" if words else ""
    for in_flight, found in result["in_flight"].items():
        busy = fmean(share for one in found["rounds"] for share in one["gpu_busy_percent"])
        cores: dict[str, float] = defaultdict(float)
        for one in found["rounds"]:
            for name, used in one["cores"].items():
                kind = "API server" if name.startswith("APIServer") else name.rstrip("0123456789 ")
                cores[kind] += used / len(found["rounds"])
        busiest = sorted(cores.items(), key=lambda one: -one[1])
        shown = ", ".join(f"{kind} {used:.1f}" for kind, used in busiest if used >= MIN_CORES)
        rate = interval(found["requests_per_s"], 1)
        yield device(result), settings["size"], settings["engine"], flags, in_flight, rate, f"{busy:.0f} %", shown


def _work_row(choice: Choice) -> Sequence[object]:
    kinds = {"in_flight": _load_row, "client": _client_row, "answer": _reward_row, "work": _data_row}
    make = next(make for key, make in kinds.items() if key in choice)
    return make(choice, result_of(choice))


def _load_row(choice: Choice, result: dict) -> Sequence[object]:
    row = find(result["throughput"], choice, concurrency=choice["in_flight"])
    served = f"{_model(result['size'])}, {_engine_name(engine(result))}"
    work = f"{served}, {row['answer_tokens']} tokens, {row['concurrency']} in flight"
    below = f"95 % below {row['latency_s']['p95']:.2f} s"
    return work, device(result), f"{row['requests_per_s']:.1f} requests/s", below


def _client_row(choice: Choice, result: dict) -> Sequence[object]:
    name = choice["client"]
    rate = interval(spread(result["requests"] / found["wall_s"] for found in result["clients"][name]), 1)
    work = f"{choice['label']}, {result['concurrency']} in flight"
    faster = f"{interval(result['ratio'][name])} times a straightforward client"
    return work, device(result), f"{rate} requests/s", faster


def _reward_row(choice: Choice, result: dict) -> Sequence[object]:
    row = find(result["rewards_per_s"], choice, answer=choice["answer"], parser=choice["parser"])
    return f"rewards, answers of {row['words']} words", "one CPU core", f"{row['value']:,} rewards/s", ""


def _data_row(choice: Choice, result: dict) -> Sequence[object]:
    row = result["results"][choice["work"]]
    return choice["work"], "two CPU cores", f"{row['rows_per_s']:,} rows/s", f"at most {row['peak_mib']} MiB"


def _model(size: str) -> str:
    return size.upper()


def _engine_name(name: str) -> str:
    """`vLLM`, or `sglang` with its attention backend."""
    return name.replace("vllm", "vLLM")


def _table(make: Callable[[], Lines]) -> Callable[[], str]:
    return lambda: markdown(make())


HEADLINES: dict[str, Callable[[], str]] = {"plan": plan} | {
    name: _table(make)
    for name, make in {
        "hardware": planner.one_node,
        "stage-1": stage_1,
        "stage-2": stage_2,
        "parts": parts,
        "answers": answers,
        "weights": weights,
        "serving": serving,
        "work": work,
        "evaluation": evaluation,
        "small-device": small_device,
    }.items()
}

"""How tables of results are written: cells, Markdown for pages, and aligned columns for a terminal."""

import re
from collections.abc import Sequence

Lines = Sequence[Sequence[object]]  # a table: its head, then its rows


def markdown(lines: Lines) -> str:
    head, *rows = lines
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in [head, ["---"] * len(head), *rows])


def columns(lines: Lines) -> str:
    """For a terminal: columns two spaces apart and a rule under the head."""
    texts = [[str(cell) for cell in line] for line in lines]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    head, *rows = ("  ".join(map(str.ljust, line, widths)).rstrip() for line in texts)
    return "\n".join([head, "─" * len(head), *rows])


def interval(found: dict[str, float], digits: int = 2) -> str:
    """`1.50 [1.40, 1.60]`: the median, and in brackets the smallest and the largest value."""
    return f"{found['median']:.{digits}f} [{found['min']:.{digits}f}, {found['max']:.{digits}f}]"


def milliseconds(found_s: dict[str, float]) -> str:
    """`interval` of seconds, in whole milliseconds."""
    return interval({name: 1000 * value for name, value in found_s.items()}, 0)


def device(result: dict) -> str:
    """`H100` for `2 x NVIDIA H100 80GB HBM3`, `CPU` for a device that is no GPU."""
    found = re.search(r"NVIDIA (\w+)", result["device"])
    return found[1] if found else "CPU"


def engine(result: dict) -> str:
    """The engine that served, with its attention backend where the command chose one."""
    chosen = re.search(r"--attention-backend (\S+)", result["command"])
    return f"{result['engine']}, {chosen[1]}" if chosen else result["engine"]


def rollout_engine(settings: dict) -> list[str]:
    """The engine of a run of `grpo_step`, then its attention backend if the settings chose one."""
    chosen = [word.partition("attention_backend=")[2] for word in settings["set"]]
    return [settings["engine"], *filter(None, chosen)]

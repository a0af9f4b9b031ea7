"""How far a run is: a bar on a terminal; a line every `EGM_PROGRESS_S` seconds (30) in a file or a pipe.

`StepProgress` follows the steps of a training run, `CountProgress` counts finished items. Both draw with `Progress`.
"""

import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from math import inf
from statistics import fmean, median
from typing import TextIO

from tqdm import tqdm

from qwen3vl_rl.errors import InputError
from qwen3vl_rl.training.metrics import is_validation, matching, only_validates
from qwen3vl_rl.training.signs import Signs

LINE_VARIABLE, LINE_S = "EGM_PROGRESS_S", 30.0
DRAW_S = 0.1  # between two drawings of a bar
BAR, BAR_WIDTH = "|{bar:10}| {desc}", 13  # the width without the text
SEPARATOR = "  "  # of the parts of a text
SECONDS = "seconds"  # the column with the duration of a step
RECENT = 50  # steps whose median gives the time left

Clock = Callable[[], float]


class Progress:
    """Shows texts about `total` units of work: on a terminal next to a bar, elsewhere as lines.

    A text that comes too soon after the one before is skipped, unless it is the first or the last one.
    """

    def __init__(self, total: int, stream: TextIO, clock: Clock = time.monotonic):
        """`clock`: returns seconds."""
        self._total, self._stream, self._clock = total, stream, clock
        self._on_terminal = stream.isatty()
        self._interval_s = DRAW_S if self._on_terminal else line_interval_s()
        self._bar: tqdm | None = None
        self._shown_s: float | None = None
        self._skipped: tuple[int, str] | None = None

    def show(self, done: int, text: str, *, keep: bool = False) -> None:
        """`done` units are finished. `keep`: never skip the text, and leave it above the bar."""
        now = self._clock()
        is_due = self._shown_s is None or now - self._shown_s >= self._interval_s
        if keep or is_due or done >= self._total:
            self._shown_s, self._skipped = now, None
            self._put(done, text, keep)
        else:
            self._skipped = done, text

    def line(self, text: str) -> None:
        """Print a line, above the bar if there is one."""
        tqdm.write(text, file=self._stream)
        self._stream.flush()

    def close(self) -> None:
        """Show the last text if it was skipped, and leave the bar."""
        if self._skipped:
            self._put(*self._skipped, keep=False)
        if self._bar is not None:
            self._bar.close()

    def _put(self, done: int, text: str, keep: bool) -> None:
        if self._on_terminal:
            self._draw(done, text)
        if keep or not self._on_terminal:
            self.line(text)

    def _draw(self, done: int, text: str) -> None:
        columns = terminal_columns(self._stream) - 1  # some terminals wrap a line that fills them
        text = fitting(text, columns - BAR_WIDTH)
        if self._bar is None:
            options = {"initial": done, "desc": text, "ncols": columns, "bar_format": BAR}
            self._bar = tqdm(total=self._total, file=self._stream, **options)  # draws itself
        else:
            self._bar.n, self._bar.ncols = done, columns
            self._bar.set_description_str(text)


class StepProgress:
    """The steps of a training run, read from the rows of its metrics.

    Validations and warnings are never skipped. The time left is the median duration of the last `RECENT` steps, times
    the number of steps left. The first step of a start does not count, since it compiles. Validations, checkpoints
    between two steps and the end of the run are not included.
    """

    def __init__(
        self,
        total: int,
        columns: Mapping[str, str],
        signs: Signs,
        stream: TextIO | None = None,
        clock: Clock = time.monotonic,
    ):
        """`total`: the steps of the whole run, also of a resumed one; a run that filters groups may end earlier.

        `columns` maps labels to names of metrics, in which `*` matches anything: a line shows the mean of all matches.
        """
        self._total, self._columns, self._signs = total, columns, signs
        self._progress = Progress(total, stream or sys.stdout, clock)
        self._step_s: list[float] = []

    def __enter__(self) -> "StepProgress":
        return self

    def __exit__(self, *_) -> None:
        self._progress.close()

    def add(self, row: Mapping) -> None:
        """Show a row of the metrics, and a line for each of the signs that it shows."""
        step, metrics = row["step"], row["data"]
        if (seconds := metrics.get(self._columns.get(SECONDS))) is not None:
            self._step_s.append(seconds)
        warnings = list(self._signs.look(metrics))
        text = SEPARATOR.join([self._position(step), *self._numbers(metrics)])
        if only_validates(row):
            self.line(text)
        else:
            self._progress.show(step, text, keep=is_validation(row) or bool(warnings))
        for warning in warnings:
            self.line(warning)

    def line(self, text: str) -> None:
        self._progress.line(text)

    def _position(self, step: int) -> str:
        recent, steps_left = self._step_s[1:][-RECENT:], self._total - step
        left = f" ({duration(median(recent) * steps_left)} left)" if recent and steps_left > 0 else ""
        return f"step {step} of {self._total}{left}"

    def _numbers(self, metrics: Mapping[str, float]) -> Iterator[str]:
        for label, pattern in self._columns.items():
            if names := matching(metrics, pattern):
                yield f"{label} {rounded(fmean(metrics[name] for name in names))}"


class CountProgress:
    """Finished items of `total`. The time left comes from the mean rate of this start."""

    def __init__(
        self,
        name: str,
        unit: str,
        total: int,
        done: int = 0,
        stream: TextIO | None = None,
        clock: Clock = time.monotonic,
    ):
        """`done`: items that earlier starts have finished; `unit`: what the items are, in the plural."""
        self._name, self._unit, self._total = name, unit, total
        self._done = self._done_before = done
        self._clock, self._begin = clock, clock()
        self._progress = Progress(total, stream or sys.stderr, clock)
        self._progress.show(done, self._position())

    def __enter__(self) -> "CountProgress":
        return self

    def __exit__(self, *_) -> None:
        self._progress.close()

    def add(self, details: str = "") -> None:
        """One more item is finished."""
        self._done += 1
        rate = (self._done - self._done_before) / max(self._clock() - self._begin, 1e-9)
        left_s = (self._total - self._done) / rate
        left = f" ({duration(left_s)} left)" if left_s > 0 else ""
        parts = [self._position() + left, f"{rate:.3g}/s", details]
        self._progress.show(self._done, SEPARATOR.join(filter(None, parts)))

    def _position(self) -> str:
        return f"{self._name}: {self._done} of {self._total} {self._unit}"


def line_interval_s() -> float:
    """Seconds between two lines in a file. Raises InputError if the variable is no such number."""
    text = os.environ.get(LINE_VARIABLE, str(LINE_S))
    with suppress(ValueError):
        if 0 <= (seconds := float(text)) < inf:
            return seconds
    raise InputError(f"{LINE_VARIABLE}={text}: expected a number of seconds")


def terminal_columns(stream: TextIO) -> int:
    """The width of the terminal behind `stream`, which is not always the one of stdout."""
    try:
        columns = os.get_terminal_size(stream.fileno()).columns
    except OSError:
        columns = 0
    return columns or shutil.get_terminal_size().columns


def rounded(value: float) -> str:
    """Four digits, or all digits before the point: `0.4567`, `82,371`."""
    return f"{value:,.0f}" if 1000 <= abs(value) < inf else f"{value:.4g}"


def fitting(text: str, width: int) -> str:
    """`text` without the parts at its end that do not fit. The first part stays."""
    while len(text) > width and SEPARATOR in text:
        text = text.rpartition(SEPARATOR)[0]
    return text


def duration(seconds: float) -> str:
    """Rounded for readers: `45 s`, `12 min`, `1 h 35 min`, `2 d 3 h`."""
    if round(seconds) < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 24 * 60:
        return "{} h {} min".format(*divmod(minutes, 60))
    return "{} d {} h".format(*divmod(round(minutes / 60), 24))

"""The error type for bad input, and how command lines report it."""

import codecs
import os
import sys
from collections.abc import Callable

ANSWERS_MISSING = "answers are missing"  # part of the exception of a step that lost answers, as when a process died
FATAL = "FatalError:"  # begins the log line with the reason why a run ends; `training/launch.py` shows it to the user


class InputError(ValueError):
    """The user's input is wrong. The message is one line with the place and what was expected there."""


def row_error(file: object, row: int, field: str, expected: str, got: object) -> InputError:
    """An `InputError` about one field of one row (1-based) of a file. Long values are truncated."""
    shown = repr(got)
    shown = shown if len(shown) <= 200 else f"{shown[:200]}…"
    return InputError(f'{file}: row {row}: field "{field}": expected {expected}, got {shown}')


_SPELLED = {"…": "...", "–": "-", "—": "-", "−": "-", "×": "x", "→": "->", "±": "+/-", "“": '"', "”": '"', "’": "'"}  # noqa: RUF001


def spell_out(error: UnicodeEncodeError) -> tuple[str, int]:
    """An error handler of codecs that replaces what a terminal's encoding lacks by ASCII."""
    missing = error.object[error.start : error.end]
    spelled = (_SPELLED.get(c) or c.encode("ascii", "backslashreplace").decode() for c in missing)
    return "".join(spelled), error.end


def cli(main: Callable[[], object]) -> None:
    """Run a command line's `main`; on `InputError` print `error: …` to stderr and exit with code 2.

    Characters that the terminal's encoding lacks are printed in ASCII.
    """
    codecs.register_error("spell_out", spell_out)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # tests and notebooks may have replaced the stream
            stream.reconfigure(errors="spell_out")
    try:
        main()
        sys.stdout.flush()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except BrokenPipeError:  # as with `… | head`; Python still flushes stdout when it exits
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None

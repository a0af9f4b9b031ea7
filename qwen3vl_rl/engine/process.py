"""Child processes that end with us, whatever ends us, and take their own children with them."""

import ctypes
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

STOP_TIMEOUT_S = 20
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def start(command: Sequence[str], log: Path, environment: Mapping[str, str]) -> subprocess.Popen:
    """Start `command` in a process group of its own, its output appended to `log`, `environment` added to ours."""
    libc = ctypes.CDLL(None)
    with log.open("ab") as file:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
            start_new_session=True,  # one group to stop, which Ctrl-C in the terminal does not reach
            preexec_fn=lambda: libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM),  # ends with us even after `kill -9`
        )


def stop(process: subprocess.Popen) -> None:
    """End the group of `process`: ask, wait, then kill what is left."""
    _signal_group(process, signal.SIGTERM)
    try:
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_TIMEOUT_S)
    finally:  # also takes what outlived its parent, and runs when Ctrl-C cuts the wait short
        _signal_group(process, signal.SIGKILL)
        process.wait()


def _signal_group(process: subprocess.Popen, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):  # all of the group has ended
        os.killpg(process.pid, number)

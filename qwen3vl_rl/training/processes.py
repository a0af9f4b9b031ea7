"""Child processes that end with us, whatever ends us, and take their own children with them. Linux only."""

import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

STOP_TIMEOUT_S = 20
SHARED_MEMORY = "/dev/shm/"
WEIGHTS = (
    "verl_weights_*"  # segments that verl makes for each sync of weights, too short-lived to be seen by a snapshot
)
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


class ProcessTree:
    """All processes below one, in whatever group, and the shared memory that they map.

    Ray and the rollout engines start daemons in groups of their own, and leave segments in /dev/shm when they are
    killed. `snapshot` remembers who and what is there now; `kill` removes what is left of it.
    """

    def __init__(self, root: int):
        self._members = {(root, _started(root))}
        self._segments: set[str] = set()
        self._begin = time.time()

    def snapshot(self) -> None:
        """Call it now and then: an orphan is known by the parent that it had."""
        parents = dict(_processes())
        pids = self._running()
        while found := {pid for pid, parent in parents.items() if parent in pids} - pids:
            pids |= found
        self._members |= {(pid, _started(pid)) for pid in pids}
        self._segments |= {name for pid in pids for name in _mapped(pid)}

    def kill(self) -> None:
        """Kill the members that still run, remove the segments that no process maps any more."""
        self.snapshot()
        for pid in self._running():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + STOP_TIMEOUT_S
        while self._running() and time.monotonic() < deadline:
            time.sleep(0.05)
        segments = self._segments | self._segments_of_weights()
        in_use = {name for pid, _ in _processes() for name in _mapped(pid)} if segments else set()
        for name in segments - in_use:
            with suppress(OSError):  # gone already, or of another user
                os.unlink(name)

    def _segments_of_weights(self) -> set[str]:
        """Those made since this object was. A killed sync may have left one that no snapshot has seen."""
        found = set()
        for path in Path(SHARED_MEMORY).glob(WEIGHTS):
            with suppress(OSError):  # gone meanwhile
                status = path.stat()
                if status.st_uid == os.getuid() and status.st_mtime >= self._begin:
                    found.add(str(path))
        return found

    def _running(self) -> set[int]:
        """Members that have not ended. A number whose process started later has passed to another."""
        return {pid for pid, started in self._members if started and _started(pid) == started}


def _processes() -> Iterator[tuple[int, int]]:
    """Every process with its parent."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (fields := _stat(int(entry.name))):
            yield int(entry.name), int(fields[1])


def _started(pid: int) -> str:
    """When a process was started, in clock ticks; empty where there is none or it has ended."""
    fields = _stat(pid)
    return fields[19] if fields and fields[0] != "Z" else ""


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat (proc_pid_stat(5)) from the third, the state, on."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:  # it has just ended
        return []


def _mapped(pid: int) -> set[str]:
    """The files of /dev/shm that a process maps; none where it is not ours to ask."""
    try:
        lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    except OSError:
        return set()
    paths = (line.split(maxsplit=5)[-1] for line in lines if SHARED_MEMORY in line)
    return {path for path in paths if path.startswith(SHARED_MEMORY) and not path.endswith("(deleted)")}


def _signal_group(process: subprocess.Popen, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):  # all of the group has ended
        os.killpg(process.pid, number)

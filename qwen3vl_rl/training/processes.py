"""Child processes that end when this process ends, even by SIGKILL, together with their own children. Linux only."""

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
TEMPORARY = "egm-"  # prefix of a run's temporary folder
WEIGHTS = "verl_weights_*"  # verl's segments for a weight sync; they are often gone before a snapshot sees them
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def start(command: Sequence[str], log: Path, environment: Mapping[str, str]) -> subprocess.Popen:
    """Start `command` in a new process group. Its output is appended to `log`, and `environment` is added to ours."""
    libc = ctypes.CDLL(None)
    with log.open("ab") as file:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
            start_new_session=True,  # a group that can be stopped as one, and that Ctrl-C does not reach
            preexec_fn=lambda: libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM),  # sent even if we get `kill -9`
        )


def stop(process: subprocess.Popen) -> None:
    """Stop the group of `process`: SIGTERM, wait, then SIGKILL for the rest."""
    _signal_group(process, signal.SIGTERM)
    try:
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_TIMEOUT_S)
    finally:  # also kills children that outlived `process`; runs even if Ctrl-C interrupts the wait
        _signal_group(process, signal.SIGKILL)
        process.wait()


class ProcessTree:
    """All descendants of a process, in any group, and the shared memory that they map.

    Ray and the rollout engines start daemons in new process groups, and leave segments in /dev/shm when they are
    killed. `snapshot` records the processes and segments that exist now; `kill` removes those that are left.
    """

    def __init__(self, root: int):
        self._members = {(root, _started(root))}
        self._segments: set[str] = set()
        self._begin = time.time()

    def snapshot(self) -> None:
        """Record the current descendants. Call it regularly, since an orphan no longer shows its former parent."""
        parents = dict(_processes())
        pids = self._running()
        while found := {pid for pid, parent in parents.items() if parent in pids} - pids:
            pids |= found
        self._members |= {(pid, _started(pid)) for pid in pids}
        self._segments |= {name for pid in pids for name in _mapped(pid)}

    def kill(self) -> None:
        """Kill the members that still run, and remove the segments that no process maps any more."""
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
            with suppress(OSError):  # removed already, or owned by another user
                os.unlink(name)

    def _segments_of_weights(self) -> set[str]:
        """Segments newer than this object. A killed sync may have left one that no snapshot has seen."""
        found = set()
        for path in Path(SHARED_MEMORY).glob(WEIGHTS):
            with suppress(OSError):  # removed meanwhile
                status = path.stat()
                if status.st_uid == os.getuid() and status.st_mtime >= self._begin:
                    found.add(str(path))
        return found

    def _running(self) -> set[int]:
        """Members that have not ended. A different start time means that the kernel has reused the number."""
        return {pid for pid, started in self._members if started and _started(pid) == started}


def _processes() -> Iterator[tuple[int, int]]:
    """The number of every process, with its parent's."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (fields := _stat(int(entry.name))):
            yield int(entry.name), int(fields[1])


def _started(pid: int) -> str:
    """The start time of a process in clock ticks; empty if it does not exist or has ended."""
    fields = _stat(pid)
    return fields[19] if fields and fields[0] != "Z" else ""


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat (see proc_pid_stat(5)) from the third one on, which is the state."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:  # it has just ended
        return []


def _mapped(pid: int) -> set[str]:
    """The files of /dev/shm that a process maps; empty if we may not read its maps."""
    try:
        lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    except OSError:
        return set()
    paths = (line.split(maxsplit=5)[-1] for line in lines if SHARED_MEMORY in line)
    return {path for path in paths if path.startswith(SHARED_MEMORY) and not path.endswith("(deleted)")}


def _signal_group(process: subprocess.Popen, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):  # the whole group has ended
        os.killpg(process.pid, number)

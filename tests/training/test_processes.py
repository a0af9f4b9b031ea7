"""Children write to their log, and end with us and with their own children."""

import mmap
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from qwen3vl_rl.training import processes as process

ROOT = Path(__file__).parents[2]
FAMILY = "import subprocess, time; print(subprocess.Popen(['sleep', '3600']).pid, flush=True); time.sleep(3600)"
DAEMON = """
import subprocess, sys, time
code = '''
import mmap, os, time
with open(f"/dev/shm/egm_test_{os.getpid()}", "w+b") as file:
    file.truncate(4096)
    memory = mmap.mmap(file.fileno(), 4096)
time.sleep(3600)
'''
print(subprocess.Popen([sys.executable, "-c", code], start_new_session=True).pid, flush=True)
time.sleep(3600)
"""
STUBBORN = "import signal, time; signal.signal(15, signal.SIG_IGN); print(0, flush=True); time.sleep(3600)"
LONELY = """
import sys, time
from pathlib import Path
from qwen3vl_rl.training import processes as process
child = "import os, time; print(os.getpid(), flush=True); time.sleep(3600)"
process.start([sys.executable, "-c", child], Path(sys.argv[1]), {})
time.sleep(3600)
"""


def read_pid(log: Path) -> int:
    while not (log.exists() and log.read_text().endswith("\n")):
        time.sleep(0.1)
    return int(log.read_text())


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_for_end(pid: int) -> None:
    """Of a process that would live longer than pytest's limit for a test."""
    while is_alive(pid):
        time.sleep(0.1)


def test_stop_ends_the_whole_group(tmp_path):
    child = process.start([sys.executable, "-c", FAMILY], tmp_path / "log", {})
    grandchild = read_pid(tmp_path / "log")
    process.stop(child)
    assert child.returncode == -signal.SIGTERM
    wait_for_end(grandchild)


def test_a_tree_takes_daemons_and_their_shared_memory_with_it(tmp_path):
    child = process.start([sys.executable, "-c", DAEMON], tmp_path / "log", {})
    daemon = read_pid(tmp_path / "log")
    tree = process.ProcessTree(child.pid)
    segment = Path(f"/dev/shm/egm_test_{daemon}")
    while not segment.exists():
        time.sleep(0.1)
    tree.snapshot()
    process.stop(child)
    assert is_alive(daemon) and segment.exists()  # in a group of its own, and now an orphan
    tree.kill()
    assert not is_alive(daemon)
    assert not segment.exists()


def test_a_tree_leaves_others_alone(tmp_path):
    ours, other = (process.start(["sleep", "3600"], tmp_path / "log", {}) for _ in range(2))
    tree = process.ProcessTree(ours.pid)
    tree.kill()
    assert ours.wait() == -signal.SIGKILL
    assert is_alive(other.pid)
    process.stop(other)


def test_a_child_that_ignores_the_request_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr(process, "STOP_TIMEOUT_S", 0.5)
    child = process.start([sys.executable, "-c", STUBBORN], tmp_path / "log", {})
    read_pid(tmp_path / "log")
    process.stop(child)
    assert child.returncode == -signal.SIGKILL


def test_environment_and_log_are_added_to(tmp_path):
    log = tmp_path / "log"
    log.write_text("before\n")
    code = "import os; print(os.environ['EGM_TEST'], 'PATH' in os.environ)"
    child = process.start([sys.executable, "-c", code], log, {"EGM_TEST": "here"})
    child.wait()
    process.stop(child)  # of what has ended already
    assert log.read_text() == "before\nhere True\n"


def test_a_child_ends_when_its_parent_is_killed(tmp_path):
    log = tmp_path / "log"
    parent = subprocess.Popen([sys.executable, "-c", LONELY, str(log)], cwd=ROOT)
    child = read_pid(log)
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    wait_for_end(child)


def test_a_sync_of_weights_that_was_killed_leaves_nothing(tmp_path):
    """No look has seen the segment. One of before, one that a process maps and one of another kind are not ours."""
    older, left, used, other = (
        Path("/dev/shm") / f"{name}_{tmp_path.name}_{os.getpid()}"
        for name in ("verl_weights_older", "verl_weights_left", "verl_weights_used", "another")
    )
    try:
        older.write_bytes(b"x")
        os.utime(older, (1, 1))
        tree = process.ProcessTree(os.getpid() + 10**7)  # nobody
        for path in (left, used, other):
            path.write_bytes(b"x")
            os.utime(path, (time.time() + 1,) * 2)
        with used.open("r+b") as file, mmap.mmap(file.fileno(), 1):
            tree.kill()
        assert [path.exists() for path in (older, left, used, other)] == [True, False, True, True]
    finally:
        for path in (older, left, used, other):
            path.unlink(missing_ok=True)

"""Stage 2 over two machines: hosts of a network made on this machine, and two nodes of a real Slurm. Both need root."""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from qwen3vl_rl.training import cpu
from qwen3vl_rl.training.checkpoints import latest_step
from qwen3vl_rl.training.metrics import read_metrics

ROOT = Path(__file__).parents[2]
ADDRESSES = {"egm-first": "10.83.7.1", "egm-second": "10.83.7.2"}  # by host
PORT = 6397
RESOURCES = ["--num-cpus=8", "--num-gpus=1"]  # logical: one rank a node
TOKEN = {"RAY_AUTH_TOKEN": "of-this-test"}
OF_THE_CLUSTER = [f"ray_kwargs.ray_init.num_{kind}=null" for kind in ("cpus", "gpus")]  # `hardware=cpu` has its own
LONG = ["trainer.total_training_steps=4", "trainer.save_freq=2", "trainer.nnodes=2", *OF_THE_CLUSTER]

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
has_networks = subprocess.run(["unshare", "--net", "--uts", "true"], capture_output=True).returncode == 0


def on(host: str, *command: str) -> list[str]:
    """The command with the network and the name of that host."""
    named = ["unshare", "--uts", "bash", "-c", 'hostname "$0" && exec "$@"', host]
    return ["ip", "netns", "exec", host, *named, *command]


def shell(script: str) -> None:
    subprocess.run(["bash", "-euc", script], check=True)


@pytest.fixture(autouse=True)
def without_gpu(monkeypatch) -> None:
    """Ray's workers have the environment of the nodes' `ray start`, where the launcher of a run cannot put its own."""
    for name in (*cpu.VARIABLES, "PYTHONPATH"):
        monkeypatch.setenv(name, "")  # and as it was, after the test
    cpu.activate()


@pytest.fixture
def hosts() -> Iterator[None]:
    """Two network namespaces with an address each, joined by a cable; each knows its own name alone."""
    first, second = ADDRESSES
    try:
        for host, address in ADDRESSES.items():
            names = Path("/etc/netns", host)
            names.mkdir(parents=True, exist_ok=True)
            (names / "hosts").write_text(f"127.0.0.1 localhost\n{address} {host}\n")
            shell(f"ip netns add {host}; ip -n {host} link set lo up")
        shell(f"ip link add {first} netns {first} type veth peer name {second} netns {second}")
        for host, address in ADDRESSES.items():
            shell(f"ip -n {host} addr add {address}/24 dev {host}; ip -n {host} link set {host} up")
        yield
    finally:
        for host in ADDRESSES:
            switch_off(host)
            subprocess.run(["ip", "netns", "delete", host])
            shutil.rmtree(Path("/etc/netns", host), ignore_errors=True)


def switch_off(host: str) -> None:
    """Kill -9 of all that runs on the host."""
    pids = subprocess.run(["ip", "netns", "pids", host], capture_output=True, text=True).stdout.split()
    for pid in map(int, pids):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def wait_for(
    condition: Callable[[], bool], ended: Callable[[], str | None] = lambda: None, limit_s: float = float("inf")
) -> None:
    """`ended`: what a run has said that ended before, which fails the test."""
    end = time.monotonic() + limit_s
    while not condition():
        if (said := ended()) is not None:
            pytest.fail(said)
        assert time.monotonic() < end
        time.sleep(0.5)


@as_root
@pytest.mark.skipif(not (has_networks and shutil.which("ip")), reason="needs iproute2 and the right to make networks")
def test_a_run_on_two_hosts_goes_on_when_one_has_died(hosts, rl_command, tmp_path):
    first, second = ADDRESSES
    address, folder = f"{ADDRESSES[first]}:{PORT}", tmp_path / "run"
    environment = os.environ | TOKEN | {"PORT": f"{PORT}"}

    def ray(host: str, *command: str) -> subprocess.Popen:
        options = [*RESOURCES, f"--node-ip-address={ADDRESSES[host]}"]
        with (tmp_path / f"{host}.log").open("ab") as log:
            command = on(host, "bash", "scripts/multinode/ray.sh", *command, *options)
            return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)

    def two_nodes() -> None:
        wait = on(first, "bash", "scripts/multinode/ray.sh", "wait", address, "2")
        subprocess.run(wait, cwd=ROOT, env=environment, check=True)

    def train() -> subprocess.Popen:
        joined = environment | {"RAY_ADDRESS": address, "RAY_AUTH_MODE": "token"}
        command = on(first, *rl_command(folder, *LONG))
        pipe = subprocess.PIPE
        return subprocess.Popen(command, cwd=ROOT, env=joined, stdout=pipe, stderr=pipe, text=True)

    ray(first, "head")
    ray(second, "join", address)
    two_nodes()
    run = train()
    wait_for(
        lambda: folder.exists() and latest_step(folder) == 2,
        ended=lambda: None if run.poll() is None else run.communicate()[1],
    )
    switch_off(second)
    _, errors = run.communicate()
    assert run.returncode == 1 and "training stopped with" in errors
    ray(second, "join", address)
    two_nodes()
    run = train()
    screen, errors = run.communicate()
    assert run.returncode == 0, screen + errors
    assert [line.split()[1] for line in screen.splitlines() if line.startswith("step ")] == ["3", "4"]
    metrics = read_metrics(folder)
    assert {1, 3, 4} <= metrics.keys()  # verl writes a step's after its checkpoint, with which the host died
    assert max(step["training/rollout_probs_diff_max"] for step in metrics.values()) < 1e-3  # both hosts were synced


SLURM = """
ClusterName=egm
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
AuthInfo=socket={folder}/munge.sock
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldPort=16817
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SwitchType=switch/none
MpiDefault=none
GresTypes=gpu
SlurmdParameters=config_overrides
NodeName=node1 NodeHostname={host} NodeAddr=127.0.0.1 Port=17001 CPUs=2 Gres=gpu:8
NodeName=node2 NodeHostname={host} NodeAddr=127.0.0.1 Port=17002 CPUs=2 Gres=gpu:8
PartitionName=all Nodes=ALL Default=YES State=UP
"""


def end_jobs(configuration: str) -> None:
    """Kill what jobs have left, as control groups do on a cluster; here Slurm loses daemons out of sight."""
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            variables = process.environ()
            if "SLURM_JOB_ID" in variables and variables.get("SLURM_CONF") == configuration:
                process.kill()


@pytest.fixture
def slurm(tmp_path) -> Iterator[Callable[..., str]]:
    """`slurm(command)`: what a command of Slurm prints. Two nodes with eight GPUs each, which are empty files."""
    folder = tmp_path / "slurm"
    (folder / "state").mkdir(parents=True)
    (folder / "slurm.conf").write_text(SLURM.format(host=socket.gethostname().split(".")[0], folder=folder))
    (folder / "gres.conf").write_text(f"NodeName=node[1-2] Name=gpu File={folder}/gpu[0-7]\n")
    for number in range(8):
        (folder / f"gpu{number}").touch()
    key = folder / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o600)
    files = [f"--{name}={folder}/munge.{end}" for name, end in (("socket", "sock"), ("key-file", "key"))]
    files += [f"--{name}={folder}/munge.{name}" for name in ("pid-file", "log-file", "seed-file")]
    environment = os.environ | TOKEN | {"SLURM_CONF": f"{folder}/slurm.conf"}
    daemons = [
        ["munged", "--foreground", "--force", *files],
        ["slurmctld", "-D", "-L", f"{folder}/slurmctld.log"],
        *(["slurmd", "-D", "-N", node, "-L", f"{folder}/{node}.log"] for node in ("node1", "node2")),
    ]
    started = []

    def said(*command: str, **variables: str) -> str | None:
        """None where it failed."""
        done = subprocess.run(command, cwd=ROOT, env=environment | variables, stdout=subprocess.PIPE, text=True)
        return None if done.returncode else done.stdout.strip()

    def ask(*command: str, **variables: str) -> str:
        answer = said(*command, **variables)
        assert answer is not None, command
        return answer

    try:
        for command in daemons:
            started.append(subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL))
            if command[0] == "munged":
                wait_for((folder / "munge.sock").exists)
        wait_for(lambda: said("sinfo", "-h", "-t", "idle", "-o", "%D") == "2")
        yield ask
    finally:
        said("scancel", "--full", "--user=root")
        wait_for(lambda: said("squeue", "-h") == "", limit_s=300)
        end_jobs(environment["SLURM_CONF"])
        for daemon in reversed(started):
            daemon.terminate()
            daemon.wait()


@as_root
@pytest.mark.skipif(not shutil.which("slurmctld"), reason="needs Slurm and munge")
def test_a_requeued_job_of_slurm_goes_on_at_its_last_checkpoint(slurm, rl_command, tmp_path):
    folder, log = tmp_path / "run", tmp_path / "job.log"
    _, _, _, *recipe = rl_command(folder, *LONG)  # after `python -m qwen3vl_rl.train`
    options = ["--parsable", f"--output={log}", "--open-mode=append"]
    one_rank = '{"CPU": 8, "GPU": 1}'  # logical, of each node
    variables = {"DATA_DIR": f"{tmp_path}", "RAY_OVERRIDE_RESOURCES": one_rank}
    job = slurm("sbatch", *options, "scripts/multinode/slurm.sh", *recipe, **variables)

    def state() -> str:
        return slurm("squeue", "-h", "-t", "all", "-j", job, "-o", "%T")

    ended = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")
    wait_for(
        lambda: folder.exists() and latest_step(folder) == 2,
        ended=lambda: log.read_text() if state() in ended else None,
    )
    slurm("scontrol", "requeue", job)
    wait_for(lambda: state() == "PENDING")
    end_jobs(f"{tmp_path}/slurm/slurm.conf")
    wait_for(lambda: state() in ended)
    assert state() == "COMPLETED", log.read_text()
    steps = [line.split()[1] for line in log.read_text().splitlines() if line.startswith("step ")]
    assert steps[-2:] == ["3", "4"] and steps.count("1") == 1

"""Each run sends weights to its own rollout engine, also with another run on the machine."""

import json
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from qwen3vl_rl.evaluation.serving.engines import on_cpu
from qwen3vl_rl.training.processes import TEMPORARY
from qwen3vl_rl.training.workload import compose_recipe

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
# Both sides of one run as verl creates them, except for what needs a cluster or an engine.
RUN = """
import asyncio, json, os, sys, threading, time
from types import SimpleNamespace
from qwen3vl_rl.training import cpu, launch
cpu.activate()
os.environ[cpu.EXTERNAL_MODULES] = launch.external_modules()  # as `launch.run` sets it
import torch
from verl.workers.rollout.base import get_rollout_class
from verl.workers.rollout.vllm_rollout import ServerAdapter
from verl.workers.rollout.vllm_rollout.bucketed_weight_transfer import BucketedWeightReceiver, BucketedWeightSender
from qwen3vl_rl.verl_ext import vllm_weights

def begin(self, worker):
    self.config = SimpleNamespace(engine_kwargs={"vllm": {"worker_extension_cls": worker}})
    self.zmq_handle = f"ipc:///tmp/rl-colocate-zmq-01000000-replica-0-rank-{rank}.sock"

class Worker(vllm_weights.ReloadingWorkerExtension):
    __new__ = lambda cls: object.__new__(cls)
    local_rank, model_runner = property(lambda self: rank), None

ServerAdapter.__init__ = begin
os.environ |= {"VERL_RAY_JOB_ID": "01000000", "VERL_REPLICA_RANK": "0"}  # of the first job of any cluster
value, rank, received = float(sys.argv[1]), int(sys.argv[2]), {}
adapter = get_rollout_class("vllm")("qwen3vl_rl.verl_ext.vllm_weights.ReloadingWorkerExtension")
sender = BucketedWeightSender(adapter.zmq_handle, bucket_size_mb=1, use_shm=True)
receiver = BucketedWeightReceiver(Worker()._get_zmq_handle(), torch.device("cpu"), use_shm=True)
send = lambda: asyncio.run(sender.async_send_weights(iter([("weight", torch.full((8,), value))])))
keep = lambda bucket, is_last: received.update((name, tensor.tolist()) for name, tensor in bucket)
thread = threading.Thread(target=send, daemon=True)
thread.start()
while not os.path.exists(adapter.zmq_handle.removeprefix("ipc://")):
    time.sleep(0.05)
print("sends", flush=True)
input()  # wait for the other run
receiver.receive_weights(keep)
thread.join(30)
try:
    get_rollout_class("vllm")("verl.workers.rollout.vllm_rollout.utils.vLLMColocateWorkerExtension")
except ValueError as error:
    print(json.dumps({"received": received, "socket": receiver.zmq_handle, "refused": str(error)}))
"""


@pytest.fixture
def temporary():
    """A folder with a short name: a socket's path has 107 bytes."""
    with TemporaryDirectory() as folder:
        yield folder


@pytest.mark.long
@pytest.mark.engine
@pytest.mark.skipif(not on_cpu(), reason="weights pass through shared memory here, on a GPU through CUDA")
def test_two_runs_at_once_get_their_own_weights(temporary):
    folders = [Path(temporary, f"{TEMPORARY}{name}") for name in "ab"]  # as `launch.run` names them
    runs = [start(str(number), "1", folder) for number, folder in enumerate(folders)]
    seen = finish(runs)
    assert [run["received"] for run in seen] == [{"weight": [0.0] * 8}, {"weight": [1.0] * 8}]
    assert [run["socket"] for run in seen] == [
        f"ipc://{folder}/rl-colocate-zmq-01000000-replica-0-rank-1.sock" for folder in folders
    ]
    assert "worker_extension_cls: expected a class of qwen3vl_rl.verl_ext.vllm_weights" in seen[0]["refused"]


@pytest.mark.long
@pytest.mark.engine
@pytest.mark.skipif(not on_cpu(), reason="as above")
def test_a_manually_started_cluster_keeps_verls_socket(temporary):
    (seen,) = finish([start("1", "7", Path(temporary, "nodes"))])
    assert seen["socket"] == "ipc:///tmp/rl-colocate-zmq-01000000-replica-0-rank-7.sock"


def start(value: str, rank: str, folder: Path) -> subprocess.Popen:
    folder.mkdir()
    return subprocess.Popen(
        [sys.executable, "-c", RUN, value, rank],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(folder)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def finish(runs: list[subprocess.Popen]) -> list[dict]:
    for run in runs:
        assert "sends\n" in iter(run.stdout.readline, "")
    for run in runs:
        run.stdin.write("\n")
        run.stdin.flush()
    return [json.loads(run.communicate()[0].splitlines()[-1]) for run in runs]


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["hardware=cpu"], "ReloadingWorkerExtension"),
        (["engine=vllm"], "OwnSocketWorkerExtension"),
        (["actor_rollout_ref.rollout.name=vllm"], "OwnSocketWorkerExtension"),
    ],
)
def test_the_recipe_selects_the_workers_side(words, name):
    chosen = compose_recipe(words).actor_rollout_ref.rollout.engine_kwargs.vllm.worker_extension_cls
    assert chosen == f"qwen3vl_rl.verl_ext.vllm_weights.{name}"

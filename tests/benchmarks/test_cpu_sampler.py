"""`benchmarks/cpu_sampler.py` replaces a private name of vLLM. It goes when this test fails."""

import inspect

import vllm.utils.cpu_triton_utils as kernels
from vllm.v1.sample import rejection_sampler

ARGUMENT = "USE_FP64_GUMBEL"


def test_vllm_for_cpus_lacks_an_argument_of_its_sampler():
    assert f"{ARGUMENT}=" in inspect.getsource(rejection_sampler.sample_recovered_tokens)
    assert ARGUMENT not in inspect.signature(kernels._sample_recovered_tokens_kernel_impl).parameters
    assert kernels._FuncWrapper

"""How engines are started."""

import pytest

from qwen3vl_rl.errors import InputError
from qwen3vl_rl.evaluation.serving import engines


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [([], 8), (["--tensor-parallel-size", "2"], 4), (["-tp=4"], 2), (["--tp-size", "2", "--pp-size=2", "--x"], 2)],
    ids=str,
)
def test_replicas_are_as_many_as_the_gpus_hold(monkeypatch, arguments, expected):
    monkeypatch.setattr(engines, "on_cpu", lambda: False)
    monkeypatch.setattr(engines, "_gpu_count", lambda: 8)
    assert engines.replicas(arguments) == expected
    with pytest.raises(InputError, match="a replica of 16 GPUs, this machine has 8"):
        engines.replicas(["-tp", "16"])
    with pytest.raises(InputError, match="server arguments"):
        engines.replicas(["-tp", "many"])


def test_servers_on_one_gpu_divide_its_memory(monkeypatch, tmp_path):
    monkeypatch.setattr(engines, "on_cpu", lambda: False)
    monkeypatch.setattr(engines, "gpu_memories_mib", lambda: [81_920, 81_920])
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.truncate(4 * engines.GIB)
    flags = engines.VLLM.share_gpu(tmp_path, 0.5, [])
    assert dict(zip(flags[::2], flags[1::2], strict=True)) == {
        "--gpu-memory-utilization": "0.450",
        "--kv-cache-memory-bytes": str((36 - 4 - 8) * engines.GIB),
    }
    with pytest.raises(InputError, match="expected at least 16 GiB of a GPU for each, found 14 GiB"):
        engines.VLLM.share_gpu(tmp_path, 0.2, [])
    assert engines.VLLM.share_gpu(tmp_path, 0.2, ["-tp=4"])[-1] == str(int((0.9 * 0.2 * 80 - 1 - 8) * engines.GIB))

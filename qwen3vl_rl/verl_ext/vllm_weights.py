"""How vLLM workers receive the actor's weights from verl 0.9.1.

Actor and worker meet at a socket in /tmp, which verl names by the job's number in its Ray cluster. A run that starts
its own cluster is always job 1. If two such runs shared a machine, one removed the other's socket, and hung or
generated with the other's weights (`benchmarks/results/runs_at_once_h100.json`). Here the socket of such a run is in
its own temporary folder. `rollout_adapter.py` registers the actor's side; the recipe selects the worker's side with
`rollout.engine_kwargs.vllm.worker_extension_cls`.
"""

from pathlib import Path
from tempfile import gettempdir

import torch
from hydra.utils import get_class
from verl.workers.rollout.vllm_rollout import ServerAdapter
from verl.workers.rollout.vllm_rollout.bucketed_weight_transfer import BucketedWeightReceiver
from verl.workers.rollout.vllm_rollout.utils import vLLMColocateWorkerExtension

from qwen3vl_rl.training.processes import TEMPORARY


def own_socket(handle: str) -> str:
    """verl's `ipc:///tmp/NAME.sock`, moved to the temporary folder that `launch.run` creates for a run.

    Workers of a manually started cluster have no such folder, but its jobs have different numbers.
    """
    folder = gettempdir()
    return f"ipc://{folder}/{handle.rpartition('/')[2]}" if Path(folder).name.startswith(TEMPORARY) else handle


class OwnSocketAdapter(ServerAdapter):
    """The actor's side. Raises ValueError if the worker would wait at another socket."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        name = self.config.engine_kwargs.get("vllm", {}).get("worker_extension_cls")
        if not (name and issubclass(get_class(name), OwnSocketWorkerExtension)):
            raise ValueError(
                f"rollout.engine_kwargs.vllm.worker_extension_cls: expected a class of {__name__}, got {name}"
            )
        self.zmq_handle = own_socket(self.zmq_handle)


class OwnSocketWorkerExtension(vLLMColocateWorkerExtension):
    """The worker's side."""

    def _get_zmq_handle(self) -> str:
        return own_socket(super()._get_zmq_handle())


class ReloadingWorkerExtension(OwnSocketWorkerExtension):
    """The worker's side on a CPU.

    There, vLLM 0.24 packs the weights of linear layers and drops the originals, so that verl has nothing to load into.
    vLLM's own `reload_weights` rebuilds, loads and packs each layer.
    """

    def update_weights_from_ipc(self, peft_config=None, base_sync_done: bool = False, use_shm: bool = False) -> None:
        """Receive every weight from the actor through shared memory, then reload the model from them."""
        weights: dict[str, torch.Tensor] = {}

        def keep(bucket: list[tuple[str, torch.Tensor]], is_last: bool) -> None:
            weights.update((name, tensor.clone()) for name, tensor in bucket)  # the next bucket reuses the memory

        receiver = BucketedWeightReceiver(self._get_zmq_handle(), device=torch.device("cpu"), use_shm=use_shm)
        receiver.receive_weights(keep)
        self.reload_weights(weights_iterator=iter(weights.items()))

"""How vLLM workers take the actor's weights from verl 0.9.1.

Actor and worker meet at a socket that verl names in /tmp by the number of the job in its Ray cluster. A run that starts
its own cluster is job 1 there: of two such runs on one machine, one removed the other's socket, and hung, or answered
with the other's weights (of 12 runs at once, 5 hung or failed, and 3 of 350 steps were another run's). Here the socket
is in the run's own temporary folder. `fsdp.py` registers the actor's side; the recipe names the worker's side through
`rollout.engine_kwargs.vllm.worker_extension_cls`.
"""

from tempfile import gettempdir

import torch
from verl.workers.rollout.vllm_rollout import ServerAdapter
from verl.workers.rollout.vllm_rollout.bucketed_weight_transfer import BucketedWeightReceiver
from verl.workers.rollout.vllm_rollout.utils import vLLMColocateWorkerExtension


def own_socket(handle: str) -> str:
    """`ipc:///tmp/NAME.sock`, moved to the temporary folder of this process."""
    return f"ipc://{gettempdir()}/{handle.rpartition('/')[2]}"


class OwnSocketAdapter(ServerAdapter):
    """The actor's side."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.zmq_handle = own_socket(self.zmq_handle)


class OwnSocketWorkerExtension(vLLMColocateWorkerExtension):
    """The worker's side."""

    def _get_zmq_handle(self) -> str:
        return own_socket(super()._get_zmq_handle())


class ReloadingWorkerExtension(OwnSocketWorkerExtension):
    """On a CPU, where vLLM 0.24 packs the weights of linear layers and drops the originals, so that verl's in-place
    loading finds nothing to load into. vLLM's own `reload_weights` rebuilds, loads and packs each layer."""

    def update_weights_from_ipc(self, peft_config=None, base_sync_done: bool = False, use_shm: bool = False) -> None:
        """Receive every weight from the actor through shared memory, then reload the model from them."""
        weights: dict[str, torch.Tensor] = {}

        def keep(bucket: list[tuple[str, torch.Tensor]], is_last: bool) -> None:
            weights.update((name, tensor.clone()) for name, tensor in bucket)  # the next bucket reuses the memory

        receiver = BucketedWeightReceiver(self._get_zmq_handle(), device=torch.device("cpu"), use_shm=use_shm)
        receiver.receive_weights(keep)
        self.reload_weights(weights_iterator=iter(weights.items()))

"""How a vLLM 0.24 worker takes the actor's weights on a CPU.

There vLLM packs the weights of linear layers and drops the originals, so that verl 0.9.1's in-place loading finds
nothing to load into. vLLM's own `reload_weights` rebuilds, loads and packs each layer. Chosen by the CPU recipe through
`rollout.engine_kwargs.vllm.worker_extension_cls`.
"""

import torch
from verl.workers.rollout.vllm_rollout.bucketed_weight_transfer import BucketedWeightReceiver
from verl.workers.rollout.vllm_rollout.utils import vLLMColocateWorkerExtension


class ReloadingWorkerExtension(vLLMColocateWorkerExtension):
    def update_weights_from_ipc(self, peft_config=None, base_sync_done: bool = False, use_shm: bool = False) -> None:
        """Receive every weight from the actor through shared memory, then reload the model from them."""
        weights: dict[str, torch.Tensor] = {}

        def keep(bucket: list[tuple[str, torch.Tensor]], is_last: bool) -> None:
            weights.update((name, tensor.clone()) for name, tensor in bucket)  # the next bucket reuses the memory

        receiver = BucketedWeightReceiver(self._get_zmq_handle(), device=torch.device("cpu"), use_shm=use_shm)
        receiver.receive_weights(keep)
        self.reload_weights(weights_iterator=iter(weights.items()))

"""verl 0.9.1's FSDP engine with the vision encoder frozen; the mergers and the language model train (egm recipe, stage 1).

Set `model.external_lib` to this module to freeze. verl's own `actor.freeze_vision_tower` is read by its Megatron engine only.
"""

from verl.workers.engine import EngineRegistry
from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead


# verl looks up (device, vendor) before device alone; a CPU run asks for device "cuda" too (see cpu.py).
@EngineRegistry.register("language_model", ["fsdp", "fsdp2"], device="cuda", vendor=["nvidia", "amd", "cpu"])
class FrozenVisionEngine(FSDPEngineWithLMHead):
    def _build_module(self):
        module = super()._build_module()
        for name, parameter in module.model.visual.named_parameters():
            parameter.requires_grad_("merger" in name)  # `merger` and `deepstack_merger_list`
        return module

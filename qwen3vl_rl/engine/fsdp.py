"""verl 0.9.1's FSDP engine with two additions; both stages load it through `model.external_lib`.

- `model.override_config.freeze_vision` freezes the vision encoder (egm recipe, stage 1), while the mergers and the
  language model train. verl's own `actor.freeze_vision_tower` is read by its Megatron engine only.
- A reference policy on a CPU. verl offloads it to pinned memory, which torch has on GPUs alone.
"""

from dataclasses import replace

from verl.utils.device import get_device_name
from verl.workers.engine import EngineRegistry
from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead


# verl looks up (device, vendor) before the device alone, under which its own engine is registered.
@EngineRegistry.register("language_model", "fsdp2", device=["cuda", "cpu"], vendor=["nvidia", "amd", "cpu"])
class Qwen3VLEngine(FSDPEngineWithLMHead):
    def _build_module(self):
        module = super()._build_module()
        if self.model_config.override_config.get("freeze_vision"):
            for name, parameter in module.model.visual.named_parameters():
                parameter.requires_grad_("merger" in name)  # `merger` and `deepstack_merger_list`
        return module

    def _build_fsdp_module(self, module):
        config = self.engine_config
        if get_device_name() == "cpu":
            self.engine_config = replace(config, forward_only=False)  # read here for the sake of the offload alone
        try:
            return super()._build_fsdp_module(module)
        finally:
            self.engine_config = config

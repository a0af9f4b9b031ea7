"""The switches of our training engine (`fsdp_engine.py`), in one schema for both stages.

Stage 1 sets them in `engine`, stage 2 in `actor_rollout_ref.actor.fsdp_config`, from which the reference policy copies
them. The recipes select this class with `_target_`. Hydra rejects a misspelt switch when it composes the recipe.
"""

from dataclasses import dataclass

from verl.utils.torch_dtypes import PrecisionType
from verl.workers.config import FSDPEngineConfig


@dataclass
class GroundingEngineConfig(FSDPEngineConfig):
    """verl's FSDP config with seven more fields. Raises ValueError for a value of the wrong type.

    freeze_vision: freeze the vision encoder; the mergers and the language model train (EGM recipe, stage 1). Only
        verl's Megatron engine reads verl's own `actor.freeze_vision_tower`.
    freeze_deepstack_mergers: freeze `deepstack_merger_list`, so that only the main merger trains (released code,
        stage 1).
    compile_blocks: torch.compile the blocks of the vision tower and of the language model.
    response_logits_only: compute logits only for tokens that carry loss, in both stages. Log-probabilities and
        entropies of the others are 0, and nothing reads them. Needs `use_remove_padding`.
    no_shard: keep plain parameters on a single GPU instead of shards. The precision is the same: trained parameters
        are float32 and compute in bfloat16. FSDP still handles an offloaded reference, which it fetches unit by unit.
    skip_dp_sync: skip the data-parallel reduction of losses and lengths on a single GPU. Stage 1 only.
    share_prompts: compute a prompt and its image once for all its answers (`models/shared_prompts.py`). Micro-batches
        and ranks are filled with whole groups of answers, and `ppo_max_token_len_per_gpu` counts a prompt once. Stage 2
        only. Needs `use_remove_padding`, `use_dynamic_bsz` and `response_logits_only`, and no sequence parallelism.
    """

    freeze_vision: bool = False
    freeze_deepstack_mergers: bool = False
    compile_blocks: bool = False
    response_logits_only: bool = False
    no_shard: bool = False
    skip_dp_sync: bool = False
    share_prompts: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, kind in GroundingEngineConfig.__annotations__.items():
            if type(value := getattr(self, name)) is not kind:
                raise ValueError(f"{name}: expected {kind.__name__}, got {value!r}")

    def check(self, ranks: int, use_remove_padding: bool) -> None:
        """Raise ValueError for switches that do not fit the number of ranks, the precision or padded batches."""
        for switch in ("no_shard", "skip_dp_sync"):
            if getattr(self, switch) and ranks > 1:
                raise ValueError(f"{switch}: expected one GPU, got {ranks}")
        if self.no_shard and PrecisionType.is_fp16((self.mixed_precision or {}).get("param_dtype")):
            raise ValueError("no_shard: expected bf16 or fp32, because losses are not scaled for fp16")
        if self.response_logits_only and not use_remove_padding:
            raise ValueError("response_logits_only: expected model.use_remove_padding=true")
        if self.share_prompts and (not self.response_logits_only or self.ulysses_sequence_parallel_size > 1):
            raise ValueError("share_prompts: expected response_logits_only=true and ulysses_sequence_parallel_size=1")

    def offloads_reference(self, device: str) -> bool:
        """Whether this is a reference policy whose weights FSDP keeps in host memory."""
        return self.forward_only and self.param_offload and device != "cpu"

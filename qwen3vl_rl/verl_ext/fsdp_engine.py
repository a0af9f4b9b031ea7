"""verl 0.9.1's FSDP engine for our families of models, in both stages; `engine_config.py` documents its switches.

Attention is packed (see `models/packed_attention.py`): always over images, over text if `use_remove_padding` is set.

The reference policy stays on its device unless `param_offload` is set, and always on a CPU. verl ignores
`param_offload`: it keeps the reference in pinned host memory, which a CPU run lacks, and copies it to the GPU for every
micro-batch.
"""

from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from tensordict import NonTensorStack, TensorDict
from torch.distributed.tensor import DTensor
from verl.utils import tensordict_utils
from verl.utils.device import get_device_id, get_device_name
from verl.utils.torch_dtypes import PrecisionType
from verl.utils.ulysses import (
    gather_heads_scatter_seq,
    gather_seq_scatter_heads,
    get_ulysses_sequence_parallel_world_size,
    slice_input_tensor,
)
from verl.workers.engine import EngineRegistry
from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead

from qwen3vl_rl.models.compiled_blocks import compile_blocks
from qwen3vl_rl.models.families import find_family
from qwen3vl_rl.models.logprobs import Scored, precedes_loss, score_hidden
from qwen3vl_rl.models.lora import folded, require_text_gradients
from qwen3vl_rl.models.packed_attention import NAME, pack_text, packed_attention, packing, register
from qwen3vl_rl.models.parameters import (
    count_parameters,
    freeze_deepstack_mergers,
    freeze_vision_encoder,
    hold_as_used,
)
from qwen3vl_rl.models.shared_prompts import lay_out
from qwen3vl_rl.verl_ext.any_ranks import AnyRanksCheckpointManager
from qwen3vl_rl.verl_ext.micro_batches import GROUPS, IMAGES

SEQUENCE_PARALLEL = f"sequence_parallel_{NAME}"
# Options of verl's batches that need the logits of all tokens.
LOGITS_WANTED = ("calculate_sum_pi_squared", "distillation_use_topk", "distillation_only")


def sequence_parallel_attention(module, query, key, value, attention_mask, **options):
    """Ulysses sequence parallelism for packed text: each rank attends over all tokens with its share of the heads.

    Inputs: (1, heads, tokens / ranks, head_dim). Output: (1, tokens / ranks, heads, head_dim). verl's own version needs
    the flash-attn package.
    """
    copies = max(1, get_ulysses_sequence_parallel_world_size() // key.shape[1])  # a rank needs at least one head
    key, value = key.repeat_interleave(copies, dim=1), value.repeat_interleave(copies, dim=1)
    query, key, value = (gather_seq_scatter_heads(x, seq_dim=2, head_dim=1) for x in (query, key, value))
    out, _ = packed_attention(module, query, key, value, attention_mask, **options)
    return gather_heads_scatter_seq(out, seq_dim=1, head_dim=2), None


register(SEQUENCE_PARALLEL, sequence_parallel_attention)


# verl looks up (device, vendor) first. Its own engine is registered for the device only.
@EngineRegistry.register("language_model", "fsdp2", device=["cuda", "cpu"], vendor=["nvidia", "amd", "cpu"])
class GroundingEngine(FSDPEngineWithLMHead):
    def _build_module(self):
        config = self.engine_config
        config.check(torch.distributed.get_world_size(), self.use_remove_padding)
        self._family = find_family(self.model_config.hf_config.to_dict())
        self._family.settle(self.model_config.hf_config)
        module = super()._build_module()
        parts = self._family.parts
        self._places_images = self.use_remove_padding and not self.use_ulysses_sp
        parts.pack_images(module)
        if self.use_remove_padding:
            pack_text(module, SEQUENCE_PARALLEL if self.use_ulysses_sp else NAME)
        if self._places_images:
            parts.place_images(module)
        if config.freeze_vision:
            freeze_vision_encoder(module, parts)
        if config.freeze_deepstack_mergers:
            freeze_deepstack_mergers(module, parts)
        if config.compile_blocks:
            compile_blocks(parts.blocks(module))
        if config.response_logits_only:
            module.lm_head.forward = partial(self._score, module.lm_head.forward)
        return module

    def _build_lora_module(self, module):
        """As in verl, without a backward pass through a frozen vision tower."""
        module = super()._build_lora_module(module)
        require_text_gradients(module.get_base_model())
        return module

    def _build_fsdp_module(self, module):
        if self.rank == 0 and not self.engine_config.forward_only:
            print(count_parameters(module, self._family.parts), flush=True)
        config = self.engine_config
        offloaded_reference = config.offloads_reference(get_device_name())
        if config.no_shard and not offloaded_reference:
            return self._move_unsharded(module)
        if not offloaded_reference:
            self.engine_config = replace(config, forward_only=False)  # verl reads it here only to offload
        try:
            return super()._build_fsdp_module(module)
        finally:
            self.engine_config = config

    def _move_unsharded(self, module: torch.nn.Module) -> torch.nn.Module:
        """Keep plain parameters under autocast, on a single rank.

        FSDP would take a third of the host's time for hooks, copies and distributed tensors, and the host is the
        bottleneck on small batches.
        """
        precision = self.engine_config.mixed_precision or {}
        self._autocast_dtype = PrecisionType.to_dtype(precision.get("param_dtype", "bf16"))
        hold_as_used(module, self._autocast_dtype)
        return module.to(get_device_id())

    def initialize(self):
        """As in verl, with checkpoints that another number of ranks may have written."""
        super().initialize()
        self.checkpoint_manager.__class__ = AnyRanksCheckpointManager  # verl's method has a fixed class

    def load_checkpoint(self, *args, **kwargs):
        """As in verl, then set the learning rate of this run's schedule.

        If a run resumes with more epochs, the optimizer is restored with the last rate of the shorter schedule. That
        rate is 0, and the first step would change nothing.
        """
        super().load_checkpoint(*args, **kwargs)
        if self.lr_scheduler is not None:
            set_scheduled_rates(self.lr_scheduler)

    def get_per_tensor_param(self, **kwargs):
        """As in verl; adapters are merged into the weights on their way to the rollout engine.

        verl merges them into the actor's own weights, and keeps a copy of these on the host to restore them.
        """
        if not self._is_lora:
            return super().get_per_tensor_param(**kwargs)
        return folded(self.module.state_dict(), self.model_config.lora_alpha / self.model_config.lora_rank, whole), None

    @contextmanager
    def disable_adapter(self):
        """As in verl, for a reference pass without gradients.

        peft also sets `requires_grad` of the adapters to False and back. FSDP holds some parameters twice, and does not
        restore it for all of them.
        """
        layers = [layer for layer in self.module.modules() if isinstance(layer, BaseTunerLayer)]
        for layer in layers:
            layer._disable_adapters = True
        try:
            yield
        finally:
            for layer in layers:
                layer._disable_adapters = False

    def get_data_parallel_group(self):
        """None makes verl skip the reduction. Losses that return metrics need the group, because verl gathers them."""
        return None if self.engine_config.skip_dp_sync else super().get_data_parallel_group()

    def forward_backward_batch(self, data: TensorDict, loss_function, forward_only: bool = False):
        data = data.exclude(*(name for name, column in data.items() if is_unread(name, column)))
        tensordict_utils.assign_non_tensor(data, share_prompts=self.engine_config.share_prompts)
        return super().forward_backward_batch(data, loss_function, forward_only)

    def forward_step(self, micro_batch: TensorDict, loss_function, forward_only):
        self._on_host = micro_batch  # verl passes on only the copy on the device
        moved = micro_batch.exclude(IMAGES)  # images are read on the host; tensordict would move them row by row
        if self.engine_config.response_logits_only:  # nothing reads their copy, and moving them takes time
            moved = moved.exclude("position_ids")
        try:
            return super().forward_step(moved, loss_function, forward_only)
        finally:
            self._on_host = None

    def prepare_model_inputs(self, micro_batch: TensorDict):
        """As in verl, but from the samples on the host, where reading lengths and positions does not wait for the
        device. `micro_batch`, their copy on the device, is not used."""
        inputs, output_args = super().prepare_model_inputs(self._on_host)
        groups = tensordict_utils.get_non_tensor_data(self._on_host, GROUPS, default=None)
        layout = lay_out(groups) if groups else None
        if layout:
            inputs |= {name: inputs[name][..., layout.kept] for name in ("input_ids", "position_ids")}
            inputs |= layout.attention
        elif self.use_remove_padding:
            inputs |= packing(self._on_host["input_ids"].offsets(), output_args["pad_size"])
        if self._places_images:
            inputs = self._family.parts.add_image_places(inputs, self.model_config.hf_config)
        if self.engine_config.response_logits_only:
            positions = self._find_loss_positions(output_args["pad_size"])
            self._loss_positions = to_device(positions)
            places = to_device(layout.places[positions]) if layout else self._loss_positions
            self._scored = self._select_scored(output_args, positions, places)
        inputs, output_args = ({k: to_device(v) for k, v in part.items()} for part in (inputs, output_args))
        if "pixel_values" in inputs and inputs["pixel_values"].dtype == torch.uint8:
            image_processor = self.model_config.processor.image_processor
            inputs["pixel_values"] = self._family.prompts.restore_pixels(inputs["pixel_values"], image_processor)
        return inputs, output_args

    def prepare_model_outputs(self, output, output_args, micro_batch: TensorDict, logits_processor_func):
        if not self.engine_config.response_logits_only:
            return super().prepare_model_outputs(output, output_args, micro_batch, logits_processor_func)
        tokens, scores = len(output_args["input_ids_rmpad_rolled"]), output.logits.unbind(dim=1)  # of `_score`
        found = zip(("log_probs", "entropy"), scores, strict=False)
        return {name: self._scatter_to_samples(x, tokens, output_args, micro_batch) for name, x in found}

    def _scatter_to_samples(self, found, tokens: int, output_args, micro_batch: TensorDict) -> torch.Tensor:
        """Values at the loss positions as (samples, ragged tokens); 0 elsewhere."""
        values = found.new_zeros(tokens).index_copy(0, self._loss_positions, found)
        values = self._gather_and_unpad_packed(values, output_args["pad_size"])
        return torch.nested.nested_tensor_from_jagged(values, micro_batch["input_ids"].offsets())

    def _select_scored(self, output_args: dict, positions: torch.Tensor, places: torch.Tensor) -> Scored:
        """What the head scores.

        positions: on the host, the loss positions among the samples' tokens. places: on the device, the positions of
        their hidden states.
        """
        wants = partial(tensordict_utils.get_non_tensor_data, self._on_host, default=False)
        if wanted := [name for name in LOGITS_WANTED if wants(name)]:
            raise ValueError(f"{wanted[0]}: needs all logits, set response_logits_only=false")
        labels, temperature = output_args["input_ids_rmpad_rolled"][positions], None
        if not output_args["temperature_is_one"]:
            temperature = to_device(output_args["temperature_rmpad"][positions])
        return Scored(places, to_device(labels), temperature, wants("calculate_entropy"))

    def _score(self, head, hidden: torch.Tensor) -> torch.Tensor:
        """Replaces the head's forward: from (1, tokens, hidden) to scores of the tokens that carry loss."""
        return score_hidden(head, hidden[0], self._scored)

    def _find_loss_positions(self, pad_size: int) -> torch.Tensor:
        """Loss positions: those in this rank's slice of the packed samples whose next token carries loss."""
        carries = precedes_loss(self._on_host["loss_mask"], self._on_host["input_ids"].offsets(), pad_size)
        if self.use_ulysses_sp:
            carries = slice_input_tensor(carries, dim=0, padding=False)
        return carries.nonzero().squeeze(1)


def is_unread(name: str, column) -> bool:
    """Whether a column holds one object per sample that no forward pass reads, such as messages or rewards.

    tensordict would split such columns row by row for every micro-batch.
    """
    return isinstance(column, NonTensorStack) and name != IMAGES


def set_scheduled_rates(scheduler: torch.optim.lr_scheduler.LambdaLR) -> None:
    """Set the optimizer's learning rates to those of the schedule at its current step."""
    groups = zip(scheduler.optimizer.param_groups, scheduler.base_lrs, scheduler.lr_lambdas, strict=True)
    for group, base, factor in groups:
        group["lr"] = base * factor(scheduler.last_epoch)


def whole(weight: torch.Tensor) -> torch.Tensor:
    """The full weight on the device. If this rank holds a shard, all ranks must call this."""
    weight = weight.detach().to(get_device_id(), non_blocking=True)
    return weight.full_tensor() if isinstance(weight, DTensor) else weight


def to_device(value):
    """A tensor, moved to the device without waiting for its queued work; other values unchanged."""
    if not isinstance(value, torch.Tensor) or get_device_name() == "cpu":
        return value
    return (value if value.is_cuda else value.pin_memory()).to(get_device_id(), non_blocking=True)

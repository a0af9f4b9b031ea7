"""Attention over packed sequences: all images of a batch in the vision tower, all samples in the language model.

Without the flash-attn package, transformers 5.9 masks packed text with a matrix of packed length squared, and may call
attention once per image and vision layer. Here one call per layer attends over the whole batch. `pack_text` selects it
for the language model, and `pack_images` of a family for its vision tower.

The attention function is registered through transformers' `AttentionInterface`. transformers passes cumulative lengths
only to functions whose name contains "flash", hence the name. The function is selected on a loaded model, because
transformers would look for the flash-attn package if it met such a name while loading.
"""

from copy import copy

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import flash_attention_mask

NAME = "packed_as_flash"


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: None,
    scaling: float,
    cu_seq_lens_q: torch.Tensor,
    max_length_q: torch.Tensor | int,
    longest: int | None = None,
    cu_seq_lens_k: torch.Tensor | None = None,
    max_length_k: int | None = None,
    key_places: torch.Tensor | None = None,
    **_: object,
) -> tuple[torch.Tensor, None]:
    """Attention within each sequence: bidirectional in images, causal in text (`module.is_causal`).

    query: (1, heads, tokens, head_dim), with the tokens of all sequences in a row. key, value: the same with as many or
    fewer heads. cu_seq_lens_q: int32 (sequences + 1,). longest: length of the longest sequence, if the host knows it;
    reading it from the device would stall every layer. Returns (1, tokens, heads, head_dim).

    key_places: (keys,), only if sequences share keys (`shared_prompts.py`): the tokens whose keys and values each
    sequence attends to, one sequence after the other. cu_seq_lens_k and max_length_k then hold the numbers of keys per
    sequence. The last query of a sequence attends to all of its keys.
    """
    query, key = query.to(value.dtype), key.to(value.dtype)  # under autocast, the query and key norms return float32
    if key_places is not None:
        return _shared_attention(
            query, key, value, scaling, key_places, cu_seq_lens_q, cu_seq_lens_k, max_length_q, max_length_k
        )
    if not query.is_cpu and query.dtype in (torch.float16, torch.bfloat16):
        longest, ends = longest or int(max_length_q), cu_seq_lens_q
        return _flash(query, key, value, ends, ends, longest, longest, module.is_causal, scaling), None
    lengths = cu_seq_lens_q.diff().tolist()
    parts = zip(*(_stack(x, lengths) for x in (query, key, value)), strict=True)
    outs = [
        scaled_dot_product_attention(q, k, v, scale=scaling, is_causal=module.is_causal, enable_gqa=True)
        for q, k, v in parts
    ]
    return torch.cat([out.transpose(1, 2).flatten(0, 1) for out in outs]).unsqueeze(0), None


def _shared_attention(query, key, value, scaling, key_places, ends_q, ends_k, longest_q, longest_k):
    # In float32, because the backward pass sums the gradients of all answers to a prompt in its keys and values.
    key, value = (x.float().index_select(2, key_places).to(x.dtype) for x in (key, value))
    if not query.is_cpu and query.dtype in (torch.float16, torch.bfloat16):
        return _flash(query, key, value, ends_q, ends_k, longest_q, longest_k, True, scaling), None
    parts = zip(
        *(x.split(ends.diff().tolist(), dim=2) for x, ends in ((query, ends_q), (key, ends_k), (value, ends_k))),
        strict=True,
    )
    outs = []
    for q, k, v in parts:
        mask = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device).tril(k.shape[2] - q.shape[2])
        outs.append(scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scaling, enable_gqa=True))
    return torch.cat(outs, dim=2).transpose(1, 2), None


def _flash(query, key, value, ends_q, ends_k, longest_q, longest_k, is_causal, scaling) -> torch.Tensor:
    """torch's own FlashAttention-2 kernels, whose causal mask aligns the last query with the last key.

    torch.nn.attention.varlen calls the same kernels through a Python operator, which costs the host more than a launch.
    """
    q, k, v = (x.squeeze(0).transpose(0, 1) for x in (query, key, value))
    lengths = ends_q, ends_k, longest_q, longest_k
    options = {"dropout_p": 0.0, "is_causal": is_causal, "return_debug_mask": False, "scale": scaling}
    return torch.ops.aten._flash_attention_forward(q, k, v, *lengths, **options)[0].unsqueeze(0)


def _stack(x: torch.Tensor, lengths: list[int]) -> list[torch.Tensor]:
    """Split (1, heads, tokens, head_dim) into one batch (sequences, heads, length, head_dim) if all lengths are equal,
    else into one tensor per sequence."""
    if len(set(lengths)) == 1:
        return [x.squeeze(0).unflatten(1, (len(lengths), -1)).transpose(0, 1)]
    return list(x.split(lengths, dim=2))


def register(name: str, function) -> None:
    """Register an attention function over packed sequences with transformers; `name` must contain "flash"."""
    AttentionInterface.register(name, function)
    AttentionMaskInterface.register(name, flash_attention_mask)  # builds no mask: the lengths suffice


register(NAME, packed_attention)


def pack_text(model: PreTrainedModel, name: str = NAME) -> None:
    """Make the language model attend over packed samples with the attention function `name`.

    Its forward pass then needs the arguments that `packing` returns.
    """
    attend_with(name, model.model.language_model)


def attend_with(name: str, part: torch.nn.Module) -> None:
    """Make the modules of `part` attend with the function `name`.

    They get a separate config that names it, because the model's own config is saved.
    """
    shared, own = part.config, copy(part.config)
    own._attn_implementation = name
    for module in part.modules():
        if getattr(module, "config", None) is shared:
            module.config = own


def packing(offsets: torch.Tensor, pad_size: int = 0) -> dict[str, torch.Tensor | int]:
    """Attention arguments of the language model for packed samples with these offsets, (samples + 1,).

    Padding at the end counts as one more sample.
    """
    ends = torch.cat([offsets, offsets[-1:] + pad_size]) if pad_size else offsets
    ends = ends.to(torch.int32)
    longest = int(ends.diff().max())
    return {"cu_seq_lens_q": ends, "cu_seq_lens_k": ends, "max_length_q": longest, "max_length_k": longest}

"""Vision attention over all images of a batch at once, for machines without flash-attn.

transformers (5.9) calls scaled-dot-product attention once per image and layer. It hands a whole batch, with its
cumulative lengths, only to functions whose name contains "flash"; hence the name below. Registered through
transformers' `AttentionInterface`. Chosen on a loaded model: while loading, such a name would be taken
for a flash-attn package.
"""

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, Qwen3VLForConditionalGeneration

NAME = "batched_sdpa_as_flash"


def batched_sdpa(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: None,
    scaling: float,
    cu_seq_lens_q: torch.Tensor,
    max_length_q: torch.Tensor | int,
    **_: object,
) -> tuple[torch.Tensor, None]:
    """Bidirectional attention within each image.

    query, key, value: (1, heads, patches, head_dim), the patches of all images in a row; cu_seq_lens_q: (images + 1,).
    Returns (1, patches, heads, head_dim). Images of one size are attended in one call, others one by one.
    """
    _, heads, patches, _ = query.shape
    images = len(cu_seq_lens_q) - 1
    if images * int(max_length_q) == patches:
        q, k, v = (x.reshape(heads, images, patches // images, -1).transpose(0, 1) for x in (query, key, value))
        out = scaled_dot_product_attention(q, k, v, scale=scaling)
        return out.transpose(1, 2).reshape(1, patches, heads, -1), None
    lengths = (cu_seq_lens_q[1:] - cu_seq_lens_q[:-1]).tolist()
    parts = zip(*(x.split(lengths, dim=2) for x in (query, key, value)), strict=True)
    out = torch.cat([scaled_dot_product_attention(q, k, v, scale=scaling) for q, k, v in parts], dim=2)
    return out.transpose(1, 2), None


AttentionInterface.register(NAME, batched_sdpa)


def use_batched_attention(model: Qwen3VLForConditionalGeneration) -> None:
    """Make the vision tower of a loaded model attend over whole batches."""
    model.model.visual.config._attn_implementation = NAME

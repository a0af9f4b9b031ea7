"""mRoPE position ids of sequences that all have the same length, which verl 0.9.1 cannot split.

Position ids are (4, tokens) per sample. TransferQueue combines those of a rank with torch's `as_nested_tensor`, which
looks for the dimension that differs. If none does, it takes the first, of size 4. verl always expects the token
dimension, and fails in `split_with_sizes`. Importing this module extends verl's `maybe_fix_3d_position_ids`, which
handles a similar case.
"""

import torch
from tensordict import TensorDict
from verl.utils import tensordict_utils

AXES = 4  # of a position: text, time, height and width
_theirs = tensordict_utils.maybe_fix_3d_position_ids


def fix_position_ids(data: TensorDict) -> None:
    _theirs(data)
    ids = data.get("position_ids", None)
    if ids is None or not ids.is_nested or ids.dim() != 3 or ids.values().shape == (AXES, ids.offsets()[-1]):
        return  # absent, or packed as verl expects
    by_sample = ids.values().unflatten(0, (len(ids), -1))  # (samples, 4, tokens)
    samples, _, tokens = by_sample.shape
    offsets = torch.arange(0, (samples + 1) * tokens, tokens, device=by_sample.device)
    packed = by_sample.transpose(0, 1).flatten(1)  # (4, samples * tokens)
    data["position_ids"] = torch.nested.nested_tensor_from_jagged(packed, offsets, jagged_dim=2)


tensordict_utils.maybe_fix_3d_position_ids = fix_position_ids

"""mRoPE position ids of sequences that all have one length, which verl 0.9.1 cannot take apart.

Position ids are (4, tokens) a sample. TransferQueue puts those of a rank together with torch's `as_nested_tensor`,
which finds the dimension that differs. Where none does, it takes the 4 for it. verl always takes the tokens, and fails
in `split_with_sizes`. Importing this mends what verl has for a like case, `maybe_fix_3d_position_ids`.
"""

import torch
from tensordict import TensorDict
from verl.utils import tensordict_utils

AXES = 4  # of a position: in the text, and in time, height and width of the picture
_theirs = tensordict_utils.maybe_fix_3d_position_ids


def fix_position_ids(data: TensorDict) -> None:
    _theirs(data)
    ids = data.get("position_ids", None)
    if ids is None or not ids.is_nested or ids.dim() != 3 or ids.values().shape == (AXES, ids.offsets()[-1]):
        return  # there are none, or they are packed as verl takes them
    by_sample = ids.values().unflatten(0, (len(ids), -1))  # (samples, 4, tokens)
    samples, _, tokens = by_sample.shape
    offsets = torch.arange(0, (samples + 1) * tokens, tokens, device=by_sample.device)
    packed = by_sample.transpose(0, 1).flatten(1)  # (4, samples * tokens)
    data["position_ids"] = torch.nested.nested_tensor_from_jagged(packed, offsets, jagged_dim=2)


tensordict_utils.maybe_fix_3d_position_ids = fix_position_ids

"""Micro-batches of whole groups of answers for verl's engine (see `models/shared_prompts.py`).

verl 0.9.1 fills micro-batches with single samples by their full lengths. Here the samples of a rank are grouped by
prompt, and micro-batches are filled with groups, each prompt counted once. Only the first sample of a group keeps its
image. Importing this module replaces verl's `prepare_micro_batches`.
"""

from collections.abc import Iterable

import numpy as np
import torch
import torch.distributed as dist
from tensordict import TensorDict
from tensordict.tensorclass import NonTensorData
from verl.utils import tensordict_utils
from verl.utils.device import get_device_name
from verl.workers.engine.fsdp import transformer_impl

from qwen3vl_rl.models.shared_prompts import Group, fill_micro_batches

GROUPS = "prompt_groups"  # key of a micro-batch's groups, in the order of its samples
IMAGES = "multi_modal_inputs"
prepare_single_samples = transformer_impl.prepare_micro_batches


def prepare_micro_batches(data: TensorDict, dp_group=None, **options):
    """As in verl; of whole groups if `data` has `share_prompts`. Returns micro-batches and their samples' indices."""
    shares, by_tokens = (
        tensordict_utils.get_non_tensor_data(data, name, default=default)
        for name, default in (("share_prompts", False), ("use_dynamic_bsz", True))
    )
    if not (shares and by_tokens):  # verl restores the order of samples only with dynamic batches
        return prepare_single_samples(data, dp_group=dp_group, **options)
    groups = find_groups(data)
    batches = fill_micro_batches(groups, int(data["max_token_len_per_gpu"]), lambda count: largest(count, dp_group))
    indices = [[number for group in batch for number in group.samples] for batch in batches]
    return [select(data, *chosen) for chosen in zip(batches, indices, strict=True)], indices


def find_groups(data: TensorDict) -> list[Group]:
    """Groups of samples with the same prompt and the same images."""
    ids, ends = data["input_ids"].values(), data["input_ids"].offsets().tolist()
    answers = data["loss_mask"].offsets().diff().tolist()
    prompts = [after - before - answer for before, after, answer in zip(ends, ends[1:], answers, strict=False)]
    images = image_inputs(data)
    found: dict[bytes, list[list[int]]] = {}
    for number, count in enumerate(prompts):
        prompt = ids[ends[number] : ends[number] + count].numpy(force=True).tobytes()
        alike = found.setdefault(prompt, [])
        group = next((group for group in alike if same_images(images[group[0]], images[number])), None)
        if group is None:
            alike.append([number])
        else:
            group.append(number)
    groups = sorted(group for alike in found.values() for group in alike)
    return [Group(tuple(group), prompts[group[0]], tuple(answers[number] for number in group)) for group in groups]


def image_inputs(data: TensorDict) -> list[dict[str, torch.Tensor] | None]:
    """The image inputs of each sample, None without images."""
    if IMAGES not in data:
        return [None] * len(data)
    rows = (row.data if isinstance(row, NonTensorData) else row for row in data[IMAGES])
    return [row or None for row in rows]


def same_images(one: dict[str, torch.Tensor] | None, other: dict[str, torch.Tensor] | None) -> bool:
    if one is None or other is None or one.keys() != other.keys():
        return one is other
    return one is other or all(np.array_equal(one[name], other[name]) for name in one)  # torch.equal is slow on bytes


def select(data: TensorDict, groups: Iterable[Group], indices: list[int]) -> TensorDict:
    """The samples of a micro-batch. Only the first sample of a group keeps its images."""
    batch = tensordict_utils.index_select_tensor_dict(data, indices)
    images, first = image_inputs(batch), 0
    for group in groups:
        images[first + 1 : first + len(group.samples)] = [None] * (len(group.samples) - 1)
        first += len(group.samples)
    tensordict_utils.assign_non_tensor_data(batch, GROUPS, tuple(groups))
    tensordict_utils.assign_non_tensor_stack(batch, IMAGES, images)
    return batch


def largest(count: int, ranks: dist.ProcessGroup | None) -> int:
    """The maximum of the counts of all ranks."""
    if ranks is None or dist.get_world_size(ranks) == 1:
        return count
    found = torch.tensor([count], device=get_device_name())
    dist.all_reduce(found, dist.ReduceOp.MAX, ranks)
    return int(found)


transformer_impl.prepare_micro_batches = prepare_micro_batches

"""Samples are grouped by prompt and image, and verl's engine gets micro-batches of groups."""

import pytest
import torch
from verl.utils.tensordict_utils import assign_non_tensor, get_non_tensor_data, get_tensordict
from verl.workers.engine.fsdp import transformer_impl

from qwen3vl_rl.verl_ext.micro_batches import GROUPS, find_groups, image_inputs, prepare_micro_batches

pytestmark = pytest.mark.slow


def batch_of(samples: list[tuple[list[int], list[int], float | None]]):
    """Samples from (prompt, answer, image); an image is one number or None."""
    ids = [torch.tensor(prompt + answer) for prompt, answer, _ in samples]
    masks = [torch.ones(len(answer), dtype=torch.long) for _, answer, _ in samples]
    images = [{} if image is None else {"pixel_values": torch.full((4, 2), image)} for *_, image in samples]
    nested = {"input_ids": ids, "loss_mask": masks}
    fields = {name: torch.nested.as_nested_tensor(values, layout=torch.jagged) for name, values in nested.items()}
    return get_tensordict(
        fields | {"multi_modal_inputs": images}, {"use_dynamic_bsz": True, "max_token_len_per_gpu": 12}
    )


SAMPLES = [
    ([1, 2, 3], [7, 7], 0.5),
    ([1, 2, 3], [8], 0.5),
    ([1, 2, 3], [9], 0.25),  # the same prompt with another image
    ([1, 2], [3, 9], None),  # the same tokens with a shorter prompt
    ([1, 2, 3], [5], 0.5),
    ([1, 2], [4], None),
]


def test_samples_are_grouped_by_prompt_and_image_in_any_order():
    groups = find_groups(batch_of(SAMPLES))
    assert [group.samples for group in groups] == [(0, 1, 4), (2,), (3, 5)]
    assert [(group.prompt_tokens, group.answer_tokens) for group in groups] == [(3, (2, 1, 1)), (3, (1,)), (2, (2, 1))]


def test_a_micro_batch_has_whole_groups_and_an_image_for_each():
    data = assign_non_tensor(batch_of(SAMPLES), share_prompts=True)
    batches, indices = prepare_micro_batches(data)
    assert sorted(number for numbers in indices for number in numbers) == list(range(len(SAMPLES)))
    assert sorted(map(sorted, indices)) == [[0, 1, 4], [2, 3, 5]]
    for batch, numbers in zip(batches, indices, strict=True):
        groups = get_non_tensor_data(batch, GROUPS, None)
        assert [number for group in groups for number in group.samples] == numbers
        assert [ids.tolist() for ids in batch["input_ids"].unbind()] == [SAMPLES[n][0] + SAMPLES[n][1] for n in numbers]
        firsts = {group.samples[0] for group in groups}
        shown = [None if image is None else float(image["pixel_values"][0, 0]) for image in image_inputs(batch)]
        assert shown == [SAMPLES[number][2] if number in firsts else None for number in numbers]


def test_verls_engine_uses_our_micro_batches_only_for_shared_prompts():
    assert transformer_impl.prepare_micro_batches is prepare_micro_batches
    batches, indices = prepare_micro_batches(batch_of(SAMPLES))
    assert all(get_non_tensor_data(batch, GROUPS, None) is None for batch in batches)
    assert sorted(number for numbers in indices for number in numbers) == list(range(len(SAMPLES)))

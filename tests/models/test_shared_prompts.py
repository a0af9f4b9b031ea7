"""Sharing a prompt's forward pass changes neither log-probabilities nor gradients."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import Qwen3VLForConditionalGeneration

from examples.starter.build import build_config, build_model, build_tokenizer
from qwen3vl_rl.models.families.qwen3_vl.parts import image_places, pack_images, place_images
from qwen3vl_rl.models.packed_attention import pack_text, packing
from qwen3vl_rl.models.shared_prompts import Group, fill_micro_batches, lay_out

pytestmark = pytest.mark.slow

GRID = (8, 10)
GROUPS = [Group((0, 1, 2), 26, (5, 1, 9)), Group((3,), 31, (4,)), Group((4, 5), 6, (3, 3))]  # the last has no image


def run(shared: bool) -> tuple[Qwen3VLForConditionalGeneration, torch.Tensor]:
    """(model with gradients, log-probabilities of the answers' tokens) for the samples of `GROUPS`."""
    config, draw = build_config(build_tokenizer(), {}), torch.Generator().manual_seed(0)
    model = build_model(config, seed=0)
    model.train()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    for pack in (pack_images, pack_text, place_images):
        pack(model)
    samples, pixels, answers = [], [], []
    for group in GROUPS:
        image = torch.full((GRID[0] * GRID[1] // 4 if group.prompt_tokens > 6 else 0,), config.image_token_id)
        text = torch.randint(10, 300, (group.prompt_tokens - len(image),), generator=draw)
        patches = torch.randn(4 * len(image), 3 * 2 * 16 * 16, generator=draw)
        pixels += [patches] * (1 if shared else len(group.samples)) if len(image) else []
        for count in group.answer_tokens:
            answers.append(torch.randint(10, 300, (count,), generator=draw))
            samples.append(torch.cat([image, text, answers[-1]]))
    ids, lengths = torch.cat(samples), torch.tensor([len(sample) for sample in samples])
    ends = torch.cat([torch.zeros(1, dtype=torch.long), lengths.cumsum(0)])
    positions = torch.cat([torch.arange(len(sample)) for sample in samples])
    scored = torch.cat([end - torch.arange(len(a), 0, -1) - 1 for end, a in zip(ends[1:], answers, strict=True)])
    attention = packing(ends)
    if shared:
        layout = lay_out(GROUPS)
        ids, positions, attention, scored = (
            ids[layout.kept],
            positions[layout.kept],
            layout.attention,
            layout.places[scored],
        )
    grid = torch.tensor([(1, *GRID)] * len(pixels))
    inputs = {"pixel_values": torch.cat(pixels)} | image_places(ids[None], grid, config) | attention
    hidden = model.model(input_ids=ids[None], position_ids=positions.expand(4, 1, -1), **inputs).last_hidden_state
    log_probs = model.lm_head(hidden[0, scored]).log_softmax(-1).gather(1, torch.cat(answers)[:, None])[:, 0]
    (log_probs * torch.linspace(-1, 2, len(log_probs))).sum().backward()
    return model, log_probs.detach()


def test_log_probs_and_gradients_are_the_same():
    (plain, expected), (shared, found) = run(shared=False), run(shared=True)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    for (name, one), (_, other) in zip(plain.named_parameters(), shared.named_parameters(), strict=True):
        assert one.grad.abs().max() > 0, name
        assert (other.grad - one.grad).norm() <= 1e-5 * one.grad.norm(), name


@st.composite
def batches(draw) -> list[Group]:
    groups, first = [], 0
    for _ in range(draw(st.integers(1, 8))):
        answers = tuple(draw(st.lists(st.integers(1, 40), min_size=1, max_size=16)))
        groups.append(Group(tuple(range(first, first + len(answers))), draw(st.integers(1, 60)), answers))
        first += len(answers)
    return groups


@given(batches())
def test_a_layout_keeps_every_prompt_once_and_every_answer(groups):
    layout, texts = lay_out(groups), []  # per sample: its tokens as (group, sample, position)
    for number, group in enumerate(groups):
        prompt = [(number, None, position) for position in range(group.prompt_tokens)]
        for sample, count in zip(group.samples, group.answer_tokens, strict=True):
            texts.append([*prompt, *((number, sample, position) for position in range(count))])
    flat = [token for text in texts for token in text]
    left = [flat[index] for index in layout.kept.tolist()]
    assert len(left) == len(set(left)) == sum(group.tokens for group in groups)
    assert [left[place] for place in layout.places.tolist()] == flat
    keys, ends = [left[place] for place in layout.attention["key_places"].tolist()], layout.attention["cu_seq_lens_k"]
    segments = [keys[start:end] for start, end in pairwise(ends)]
    assert [segment for segment in segments if segment[-1][1] is not None] == texts
    queries = layout.attention["cu_seq_lens_q"]
    assert queries[-1] == len(left) and len(queries) == len(ends)
    for segment, start, end in zip(segments, queries, queries[1:], strict=False):
        assert segment[len(segment) - (end - start) :] == left[start:end]


@given(batches(), st.integers(100, 400), st.integers(1, 5))
def test_micro_batches_hold_every_sample_once_and_no_more_than_fits(groups, limit, others):
    samples = sorted(sample for group in groups for sample in group.samples)
    found = fill_micro_batches(groups, limit, lambda count: max(count, min(others, len(samples))))
    assert sorted(sample for batch in found for group in batch for sample in group.samples) == samples
    assert max(sum(group.tokens for group in batch) for batch in found) <= limit
    assert all(found) and len(found) >= min(others, len(samples))


def test_whole_groups_fill_micro_batches_and_large_ones_are_split():
    groups = [Group(tuple(range(16 * k, 16 * k + 16)), 340, (101,) * 16) for k in range(16)]
    assert [len(batch) for batch in fill_micro_batches(groups, 25_600)] == [8, 8]
    (alone,) = {len(batch) for batch in fill_micro_batches(groups, 2_000)}
    assert alone == 1
    parts = [group for batch in fill_micro_batches(groups[:1], 1_000) for group in batch]
    assert sorted(len(part.samples) for part in parts) == [5, 5, 6]
    halves = [Group(tuple(range(16 * k, 16 * k + 16)), 340, (790,) * 16) for k in range(16)]  # just over half the limit
    assert len(fill_micro_batches(halves, 25_600)) <= 10
    with pytest.raises(ValueError, match="micro-batches of 400 tokens: expected at least 441"):
        fill_micro_batches(groups, 400)

"""Images that are encoded once give what images that are encoded each time give: the same loss, the same gradients."""

import itertools
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tensordict import TensorDict
from transformers import Qwen3VLForConditionalGeneration
from verl.utils.seqlen_balancing import rearrange_micro_batches

from examples.starter.build import build_config, build_model, build_tokenizer
from qwen3vl_rl.models.image_embeds import image_places, place_images
from qwen3vl_rl.models.packed_attention import pack_images, pack_text, packing
from qwen3vl_rl.models.shared_images import drop_copies, find_copies, group_size

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
GRIDS = [(8, 10), (4, 6), (8, 10)]  # the third has the first one's size and is another image


def run(order: list[int], shared: bool) -> tuple[Qwen3VLForConditionalGeneration, float, int]:
    """(model with gradients, loss, patches that the vision tower saw) for samples that show image `order[i]` each."""
    config = build_config(build_tokenizer(), {})
    model = build_model(config, seed=0)
    for pack in (pack_images, pack_text, place_images):
        pack(model)
    seen = []
    model.model.visual.patch_embed.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    draw = torch.Generator().manual_seed(0)
    pixels = [torch.randn(h * w, 3 * 2 * 16 * 16, generator=draw) for h, w in GRIDS]
    rows = []
    for number, image in enumerate(order):
        pads = GRIDS[image][0] * GRIDS[image][1] // 4
        text = torch.randint(10, 300, (4 + number,), generator=torch.Generator().manual_seed(number))
        rows.append(torch.cat([torch.full((pads,), config.image_token_id), text]))
    ids, ends = torch.cat(rows)[None], torch.tensor([0, *itertools.accumulate(map(len, rows))])
    grid = torch.tensor([(1, *GRIDS[image]) for image in order])
    inputs = {"pixel_values": torch.cat([pixels[image] for image in order])} | image_places(ids, grid, config)
    if shared:
        inputs |= drop_copies(inputs["pixel_values"], inputs["image_sizes"])
    positions = torch.cat([torch.arange(len(row)) for row in rows]).expand(4, 1, -1)
    hidden = model.model(input_ids=ids, position_ids=positions, **inputs, **packing(ends)).last_hidden_state
    loss = model.lm_head(hidden).square().mean()
    loss.backward()
    return model, loss.item(), seen[0]


@pytest.mark.parametrize("order", [[0, 0, 1, 1, 0, 2], [0, 1, 2], [1], [2, 2]])
def test_loss_and_gradients_are_the_same_and_copies_cost_nothing(order):
    (plain, loss, _), (shared, found, patches) = run(order, shared=False), run(order, shared=True)
    assert found == pytest.approx(loss, rel=1e-6)
    for (name, one), (_, other) in zip(plain.named_parameters(), shared.named_parameters(), strict=True):
        torch.testing.assert_close(other.grad, one.grad, rtol=1e-4, atol=1e-6, msg=name)
    assert patches == sum(GRIDS[image][0] * GRIDS[image][1] for image in set(order))


@given(
    st.lists(st.integers(0, 3), min_size=1, max_size=12),
    st.sampled_from([torch.uint8, torch.float32]),
    st.sampled_from([3, 8]),  # bytes that come out even by eights, and that do not
)
def test_copies_are_found_by_content(order, dtype, width):
    other = torch.ones(2, width)
    other[0, :2] = torch.tensor([0.0, 2.0])  # of the first one's size and with its middle
    images = [image.to(dtype) for image in (torch.ones(2, width), other, torch.ones(4, width), torch.zeros(2, width))]
    batch = torch.cat([images[number] for number in order])
    firsts, sources = find_copies(batch.split([len(images[number]) for number in order]))
    assert [order[firsts[source]] for source in sources] == order
    assert len(firsts) == len(set(order))


@pytest.mark.parametrize(
    ("lengths", "limit", "expected"),
    [
        ([10] * 32, 320, 16),
        ([10] * 32, 100, 8),
        ([10] * 32, 15, 1),
        ([10] * 12, 200, 4),
        ([10, 10, 300, 300], 320, 1),
        ([427] * 256, 25_600, 16),  # 6 micro-batches, where 5 would hold the tokens
        ([427] * 256, 12_800, 8),  # 11, where 9 would; groups of 16 would make 16
    ],
)
def test_a_group_is_as_large_as_fits_divides_the_samples_and_fills_micro_batches(lengths, limit, expected):
    assert group_size(torch.tensor(lengths), 16, limit) == expected


@pytest.mark.parametrize(("limit", "expected"), [(25_600, 6), (12_800, 11)])
def test_verl_makes_no_more_micro_batches_than_that(limit, expected):
    lengths = torch.full((256,), 427)
    ids = torch.nested.nested_tensor_from_jagged(torch.zeros(int(lengths.sum()), dtype=torch.int64), lengths=lengths)
    batch = TensorDict({"input_ids": ids}, batch_size=256)
    parts, _ = rearrange_micro_batches(batch, limit, force_group_size=group_size(lengths, 16, limit))
    assert len(parts) == expected


TWO_RANKS = """
from qwen3vl_rl.training import cpu
cpu.activate()
import json, sys, torch, torch.distributed as dist
from tensordict import TensorDict
from verl.utils.seqlen_balancing import rearrange_micro_batches
from qwen3vl_rl.models.shared_images import group_size
rank = int(sys.argv[2])
dist.init_process_group("gloo", init_method=f"file://{sys.argv[1]}/ranks", rank=rank, world_size=2)
found = []
for cases, samples_per_image, limit in json.loads(sys.argv[3]):
    lengths = torch.tensor(cases[rank])
    ids = torch.nested.nested_tensor_from_jagged(torch.zeros(int(lengths.sum()), dtype=torch.int64), lengths=lengths)
    size = group_size(lengths, samples_per_image, limit, dist.group.WORLD)
    batch = TensorDict({"input_ids": ids}, batch_size=len(lengths))
    parts, _ = rearrange_micro_batches(batch, limit, dist.group.WORLD, force_group_size=size)
    found.append([size, len(parts)])
print(json.dumps(found))
dist.destroy_process_group()
"""


@pytest.mark.engine
def test_two_ranks_agree_on_groups_and_micro_batches(tmp_path):
    cases = [
        ([[10] * 32, [10] * 32], 16, 160),
        ([[10] * 32, [9, 12] * 16], 16, 160),  # groups of 16 fit into a micro-batch of the first alone
        ([[25, *[1] * 23], [6] * 24], 12, 72),
        ([[10] * 4, [40] * 4], 4, 40),  # as many micro-batches as the second has samples
        ([[10] * 12, [3] * 12], 8, 120),  # no whole groups of 8
    ]
    command = [sys.executable, "-c", TWO_RANKS, str(tmp_path)]
    runs = [
        subprocess.Popen([*command, str(rank), json.dumps(cases)], cwd=ROOT, stdout=subprocess.PIPE) for rank in (0, 1)
    ]
    first, second = (json.loads(run.communicate()[0].splitlines()[-1]) for run in runs)
    assert first == second == [[16, 2], [4, 3], [12, 2], [1, 4], [4, 1]]

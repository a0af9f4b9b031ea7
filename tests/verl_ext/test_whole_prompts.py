"""Which rank gets which samples, and that verl's trainers ask us."""

import random
from statistics import mean

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.v1 import PPOTrainerColocateAsync, PPOTrainerSync, get_trainer_cls

from qwen3vl_rl.verl_ext.whole_prompts import WholePrompts, deal_batch, deal_prompts


def prompts_of(count: int, answers: int) -> list[str]:
    return [str(prompt) for prompt in range(count) for _ in range(answers)]


@given(ranks=st.integers(1, 8), each=st.integers(1, 4), answers=st.integers(1, 6), data=st.data())
def test_each_rank_gets_equally_many_whole_prompts(ranks, each, answers, data):
    prompts = prompts_of(ranks * each, answers)
    lengths = data.draw(st.lists(st.integers(1, 9000), min_size=len(prompts), max_size=len(prompts)))
    dealt = deal_prompts(prompts, lengths, answers, ranks)
    assert sorted(i for numbers in dealt for i in numbers) == list(range(len(prompts)))
    assert [len(numbers) for numbers in dealt] == [each * answers] * ranks
    for numbers in dealt:
        starts = numbers[::answers]
        assert numbers == [start + i for start in starts for i in range(answers)]
        assert all(start % answers == 0 for start in starts)


@pytest.mark.parametrize(
    ("prompts", "answers", "ranks"),
    [
        (prompts_of(3, 4), 4, 2),  # not as many for each
        (prompts_of(4, 4)[1:], 4, 2),  # an answer is missing
        (["a", "a", "b", "b", "b", "b", "b", "c"], 4, 2),  # answers are missing, and the number comes out even
        (["a", "b"] * 4, 4, 2),
    ],
)
def test_samples_that_are_no_whole_prompts_are_left_to_verl(prompts, answers, ranks):
    assert deal_prompts(prompts, [1] * len(prompts), answers, ranks) is None


def test_ranks_get_about_equal_work():
    draw = random.Random(0)
    images = [draw.randint(200, 600) for _ in range(256)]
    lengths = [image + draw.randint(50, 300) for image in images for _ in range(16)]
    dealt = deal_prompts(prompts_of(256, 16), lengths, 16, 8)
    tokens = [sum(lengths[i] for i in numbers) for numbers in dealt]
    assert max(tokens) < 1.01 * mean(tokens)


@pytest.mark.parametrize("whole", [True, False])
def test_a_batch_is_dealt_by_prompts_where_it_has_whole_ones(whole):
    keys = [f"{prompt}_{answer}_0" for prompt in "abcd" for answer in range(4)]
    if not whole:
        keys = keys[::4] + keys[1::4] + keys[2::4] + keys[3::4]
    tags = [{"seq_len": 10 + number**2} for number in range(len(keys))]
    dealt = deal_batch(KVBatchMeta(partition_id="train", keys=keys, tags=tags), 4, 2)
    assert (dealt is not None) == whole
    if whole:
        assert sorted(i for numbers in dealt for i in numbers) == list(range(16))
        assert [sorted({keys[i][0] for i in numbers}) for numbers in dealt] == [["a", "d"], ["b", "c"]]


@pytest.mark.parametrize(("mode", "theirs"), [("sync", PPOTrainerSync), ("colocate_async", PPOTrainerColocateAsync)])
def test_verl_finds_our_trainers_under_its_names(mode, theirs):
    ours = get_trainer_cls(mode)
    assert issubclass(ours, WholePrompts) and issubclass(ours, theirs)
    assert ours._balance_batch is WholePrompts._balance_batch

"""The distribution of samples over ranks, and that verl's trainers use it."""

import random
from statistics import mean

import pytest
from hypothesis import given
from hypothesis import strategies as st
from verl.trainer.ppo.v1 import PPOTrainerColocateAsync, PPOTrainerSeparateAsync, PPOTrainerSync, get_trainer_cls

from qwen3vl_rl.verl_ext.group_by_prompt import GroupByPrompt, deal_prompts, shared_tokens


def prompts_of(count: int, answers: int) -> list[str]:
    return [str(prompt) for prompt in range(count) for _ in range(answers)]


@given(ranks=st.integers(1, 8), each=st.integers(1, 4), answers=st.integers(1, 6), data=st.data())
def test_each_rank_gets_equally_many_whole_prompts(ranks, each, answers, data):
    prompts = data.draw(st.permutations(prompts_of(ranks * each, answers)))
    tokens = data.draw(st.lists(st.integers(1, 9000), min_size=len(prompts), max_size=len(prompts)))
    dealt = deal_prompts(prompts, tokens, ranks)
    assert sorted(number for numbers in dealt for number in numbers) == list(range(len(prompts)))
    for numbers in dealt:
        starts = [prompts[number] for number in numbers[::answers]]
        assert len(set(starts)) == each
        assert [prompts[number] for number in numbers] == [start for start in starts for _ in range(answers)]


@given(st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=30), st.integers(1, 4))
def test_where_answers_are_missing_ranks_get_equally_many_and_few_prompts_are_split(prompts, ranks):
    prompts = (prompts * ranks)[: max(1, len(prompts) // ranks) * ranks]
    dealt = deal_prompts(prompts, [1] * len(prompts), ranks)
    assert sorted(number for numbers in dealt for number in numbers) == list(range(len(prompts)))
    assert {len(numbers) for numbers in dealt} == {len(prompts) // ranks}
    parts = sum(len({prompts[number] for number in numbers}) for numbers in dealt)
    assert parts < len(set(prompts)) + ranks


def test_ranks_get_about_equal_work():
    draw = random.Random(0)
    images = [draw.randint(200, 600) for _ in range(256) for _ in range(16)]
    answers = [draw.randint(50, 300) for _ in images]
    prompts = prompts_of(256, 16)
    tokens = shared_tokens(prompts, images, answers)
    work = [sum(tokens[number] for number in numbers) for numbers in deal_prompts(prompts, tokens, 8)]
    assert max(work) < 1.01 * mean(work)


def test_the_tokens_of_a_prompt_count_once():
    assert shared_tokens(["a", "b", "a", "a"], [10, 20, 10, 10], [1, 2, 3, 4]) == [11, 22, 3, 4]


@pytest.mark.parametrize(
    ("mode", "theirs"),
    [
        ("sync", PPOTrainerSync),
        ("colocate_async", PPOTrainerColocateAsync),
        ("separate_async", PPOTrainerSeparateAsync),
    ],
)
def test_verl_finds_our_trainers_under_its_names(mode, theirs):
    ours = get_trainer_cls(mode)
    assert issubclass(ours, GroupByPrompt) and issubclass(ours, theirs)
    assert ours._balance_batch is GroupByPrompt._balance_batch

"""All answers to a prompt share its forward pass.

GRPO trains on many answers to one prompt. A group of packed samples `[prompt | answer 1] … [prompt | answer n]` becomes
`[prompt | answer 1 | … | answer n]`, so that every layer, the vision tower's included, computes the prompt once. Only
attention has to be adapted: the queries of an answer attend to the keys of its prompt and to its own keys, which are
gathered for it (`packed_attention`). Positions are those of the samples, and the first token of each answer is scored
from the prompt's last hidden state.
"""

import heapq
import math
from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple

import torch


class Group(NamedTuple):
    """Samples with the same prompt: their indices in a batch, and the lengths of prompt and answers in tokens."""

    samples: tuple[int, ...]
    prompt_tokens: int
    answer_tokens: tuple[int, ...]

    @property
    def tokens(self) -> int:
        """Tokens of the group, the prompt counted once."""
        return self.prompt_tokens + sum(self.answer_tokens)

    def split(self, parts: int) -> list["Group"]:
        """Split into groups of about equally many consecutive answers. Each of them has the whole prompt."""
        parts = min(parts, len(self.samples))
        ends = [len(self.samples) * part // parts for part in range(parts + 1)]
        spans = [slice(start, end) for start, end in pairwise(ends)]
        return [Group(self.samples[span], self.prompt_tokens, self.answer_tokens[span]) for span in spans]


class Layout(NamedTuple):
    """The layout of packed samples in which each prompt occurs once.

    kept: (shared tokens,), the index of each kept token among the samples' tokens.
    places: (tokens,), the index among the kept tokens of each of the samples' tokens.
    attention: arguments of `packed_attention`. Each prompt and each answer is one sequence of queries.
    """

    kept: torch.Tensor
    places: torch.Tensor
    attention: dict[str, torch.Tensor | int]


def lay_out(groups: Sequence[Group]) -> Layout:
    """The layout of packed samples, which must be in the order of `groups`."""
    kept, places, keys = [], [], []
    queries, lengths = [], []  # per sequence: number of queries, and number of keys that they attend to
    start = place = 0
    for group in groups:
        count = group.prompt_tokens
        prompt = torch.arange(place, place + count)
        kept.append(torch.arange(start, start + count))
        keys.append(prompt)
        queries.append(count)
        lengths.append(count)
        place += count
        for answer in group.answer_tokens:
            sample = torch.cat([prompt, torch.arange(place, place + answer)])
            kept.append(torch.arange(start + count, start + count + answer))
            places.append(sample)
            start, place = start + count + answer, place + answer
            if answer:
                keys.append(sample)
                queries.append(answer)
                lengths.append(count + answer)
    attention = {
        "cu_seq_lens_q": _ends(queries),
        "cu_seq_lens_k": _ends(lengths),
        "max_length_q": max(queries),
        "max_length_k": max(lengths),
        "key_places": torch.cat(keys),
    }
    return Layout(torch.cat(kept), torch.cat(places), attention)


def _ends(lengths: Sequence[int]) -> torch.Tensor:
    return torch.tensor([0, *accumulate(lengths)], dtype=torch.int32)


def fill_micro_batches(
    groups: Sequence[Group], limit: int, agree: Callable[[int], int] = lambda count: count
) -> list[list[Group]]:
    """Distribute all groups over few micro-batches of similar size, with at most `limit` tokens each.

    A group is split if it does not fit, or if whole groups would need more micro-batches. `agree` returns the maximum
    of all ranks' numbers of micro-batches, and every rank makes that many. Ranks with equally many samples always can.
    Raises ValueError if a single answer does not fit, or if this rank has fewer samples than micro-batches.
    """
    agreed = 1
    while True:
        batches = _fill(groups, limit, agreed)
        if (largest := agree(len(batches))) == agreed:
            return batches
        agreed = largest


def _fill(groups: Sequence[Group], limit: int, at_least: int) -> list[list[Group]]:
    parts = [part for group in groups for part in _fitting(group, limit)]
    samples = sum(len(part.samples) for part in parts)
    count = max(at_least, math.ceil(sum(part.tokens for part in parts) / limit))
    while count <= samples:
        for finer in (1, 2, 4):  # whole groups leave micro-batches half empty if hardly more than one fits
            split = _at_least([piece for part in parts for piece in part.split(finer)], count)
            batches = _deal(split, count)
            if all(batches) and max(sum(part.tokens for part in batch) for batch in batches) <= limit:
                return batches
        count += 1
    raise ValueError(f"{count} micro-batches, which another rank needs: expected as many samples, got {samples}")


def _fitting(group: Group, limit: int) -> list[Group]:
    for count in range(1, len(group.samples) + 1):
        parts = group.split(count)
        if max(part.tokens for part in parts) <= limit:
            return parts
    longest = group.prompt_tokens + max(group.answer_tokens)
    raise ValueError(f"micro-batches of {limit} tokens: expected at least {longest}, the tokens of the longest sample")


def _at_least(parts: list[Group], count: int) -> list[Group]:
    """Split the largest parts until there are `count` parts, or until each has one sample."""
    parts = list(parts)
    while len(parts) < count and any(len(part.samples) > 1 for part in parts):
        largest = max((part for part in parts if len(part.samples) > 1), key=lambda part: part.tokens)
        index = parts.index(largest)
        parts[index : index + 1] = largest.split(2)
    return parts


def _deal(parts: Sequence[Group], count: int) -> list[list[Group]]:
    """Assign the parts, largest first, each to the micro-batch with the fewest tokens."""
    batches: list[list[Group]] = [[] for _ in range(count)]
    heap = [(0, number) for number in range(count)]
    for part in sorted(parts, key=lambda part: -part.tokens):
        tokens, number = heapq.heappop(heap)
        batches[number].append(part)
        heapq.heappush(heap, (tokens + part.tokens, number))
    return batches

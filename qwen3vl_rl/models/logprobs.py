"""Log-probabilities and entropies of tokens from their logits, and the positions at which they are needed.

verl's fallback for a missing flash-attn package takes tokens one by one in Python, which on a GPU costs more than the
model itself: 84,000 tokens kept a step waiting for 20 s.
"""

from collections.abc import Callable
from functools import partial
from itertools import repeat
from typing import NamedTuple

import torch
from torch.nn.functional import cross_entropy, pad
from torch.utils.checkpoint import checkpoint

CHUNK_TOKENS = 1024  # whose logits are held in 32 bits at once, in about three copies: 2 GB with Qwen's vocabulary
COLDEST = 1e-8  # verl's floor of the temperature, which may be 0

# Whose logits are kept for the backward pass: 2.5 GB with Qwen's vocabulary in 16 bits. More are computed again.
HEAD_TOKENS = 8192

Scores = tuple[torch.Tensor, torch.Tensor | None]


class Scored(NamedTuple):
    """What tokens are scored by: the places of the states before them, their labels, and the temperatures that divide
    logits, None for 1; each (n,)."""

    places: torch.Tensor
    labels: torch.Tensor
    temperature: torch.Tensor | None
    with_entropy: bool


def score_hidden(head: Callable[[torch.Tensor], torch.Tensor], hidden: torch.Tensor, scored: Scored) -> torch.Tensor:
    """float32 (n, 1), or (n, 2) with entropies: log-probabilities of the labels, with the logits of `HEAD_TOKENS` at
    once. hidden: (tokens, hidden). Several answers may begin at one state, whose gradient adds up in 32 bits. `head`:
    the language model's."""
    states = hidden.float()[scored.places].to(hidden.dtype)

    def score(*part: torch.Tensor) -> torch.Tensor:
        some, labels, temperature = part
        found = score_tokens(head(some), labels, temperature, scored.with_entropy)
        return torch.stack([values for values in found if values is not None], dim=1)

    if len(states) <= HEAD_TOKENS:
        return score(states, scored.labels, scored.temperature)
    temperatures = repeat(None) if scored.temperature is None else scored.temperature.split(HEAD_TOKENS)
    parts = zip(states.split(HEAD_TOKENS), scored.labels.split(HEAD_TOKENS), temperatures, strict=False)
    return torch.cat([checkpoint(score, *part, use_reentrant=False, preserve_rng_state=False) for part in parts])


def score_tokens(
    logits: torch.Tensor, labels: torch.Tensor, temperature: torch.Tensor | None, with_entropy: bool
) -> Scores:
    """Log-probabilities of `labels` and, where asked for, entropies, both float32 (n,), from logits (n, vocabulary) of
    any precision; `temperature` (n,) divides them, None is 1."""
    score = partial(_score, with_entropy=with_entropy)
    if len(logits) <= CHUNK_TOKENS:
        return score(logits, labels, temperature)
    temperatures = repeat(None) if temperature is None else temperature.split(CHUNK_TOKENS)
    chunks = zip(logits.split(CHUNK_TOKENS), labels.split(CHUNK_TOKENS), temperatures, strict=False)
    # Computed again in the backward pass, so that no more than a chunk is held in 32 bits then, either.
    scores = [checkpoint(score, *chunk, use_reentrant=False, preserve_rng_state=False) for chunk in chunks]
    log_probs, entropies = zip(*scores, strict=True)
    return torch.cat(log_probs), torch.cat(entropies) if with_entropy else None


def _score(logits, labels, temperature, *, with_entropy: bool) -> Scores:
    logits = logits.float()
    if temperature is not None:
        logits = logits / temperature.clamp(min=COLDEST)[:, None]
    log_probs = -cross_entropy(logits, labels, reduction="none")
    if not with_entropy:
        return log_probs, None
    return log_probs, torch.logsumexp(logits, dim=-1) - (logits.softmax(dim=-1) * logits).sum(dim=-1)


def precedes_loss(loss_mask: torch.Tensor, ends: torch.Tensor, pad_size: int) -> torch.Tensor:
    """Which tokens of packed samples are followed by one that carries loss: (tokens + pad_size,), nonzero where so.

    `loss_mask` (samples, ragged) covers whole samples, as in stage 1, or their ends, the responses, as in stage 2.
    `ends` (samples + 1,): offsets of the packed samples. `pad_size`: padding tokens behind them.
    """
    starts = (ends - loss_mask.offsets())[1:].repeat_interleave(loss_mask.offsets().diff())
    carries = loss_mask.values().new_zeros(int(ends[-1]))
    carries[torch.arange(len(starts)) + starts] = loss_mask.values()
    return pad(carries.roll(-1), (0, pad_size))

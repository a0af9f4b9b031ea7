"""Token log-probabilities and entropies from logits, and the positions at which they are needed.

Without the flash-attn package, verl loops over single tokens in Python. On a GPU this costs more than the model itself:
84,000 tokens delayed a step by 20 s.
"""

from collections.abc import Callable
from functools import partial
from itertools import repeat
from typing import NamedTuple

import torch
from torch.nn.functional import cross_entropy, pad
from torch.utils.checkpoint import checkpoint

CHUNK_TOKENS = 1024  # tokens with float32 logits at once, in about three copies: 2 GB with Qwen's vocabulary
COLDEST = 1e-8  # verl's lower bound of the temperature, which may be 0

# Tokens whose logits are kept for the backward pass: 2.5 GB in 16 bits with Qwen's vocabulary. For more tokens, the
# backward pass recomputes the logits.
HEAD_TOKENS = 8192

Scores = tuple[torch.Tensor, torch.Tensor | None]


class Scored(NamedTuple):
    """The tokens to score; each tensor is (n,).

    places: positions of the hidden states that precede the tokens.
    labels: the tokens.
    temperature: divides the logits; None means 1.
    with_entropy: whether to also compute entropies.
    """

    places: torch.Tensor
    labels: torch.Tensor
    temperature: torch.Tensor | None
    with_entropy: bool


def score_hidden(head: Callable[[torch.Tensor], torch.Tensor], hidden: torch.Tensor, scored: Scored) -> torch.Tensor:
    """Log-probabilities of the labels, float32 (n, 1), or (n, 2) with entropies.

    head: the language model's head. hidden: (tokens, hidden). At most `HEAD_TOKENS` tokens have logits at once. Several
    answers may start from the same hidden state; their gradients are summed in float32.
    """
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
    """Log-probabilities of `labels` and, with `with_entropy`, entropies, both float32 (n,).

    logits: (n, vocabulary) of any precision. temperature: (n,), divides the logits; None means 1.
    """
    score = partial(_score, with_entropy=with_entropy)
    if len(logits) <= CHUNK_TOKENS:
        return score(logits, labels, temperature)
    temperatures = repeat(None) if temperature is None else temperature.split(CHUNK_TOKENS)
    chunks = zip(logits.split(CHUNK_TOKENS), labels.split(CHUNK_TOKENS), temperatures, strict=False)
    # Recompute in the backward pass, so that it also holds at most one chunk in float32.
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
    """Mark the packed tokens whose next token carries loss: (tokens + pad_size,), nonzero where marked.

    loss_mask: (samples, ragged), covers whole samples, as in stage 1, or only the responses at the end, as in stage 2.
    ends: (samples + 1,), offsets of the packed samples.
    pad_size: number of padding tokens after the samples.
    """
    starts = (ends - loss_mask.offsets())[1:].repeat_interleave(loss_mask.offsets().diff())
    carries = loss_mask.values().new_zeros(int(ends[-1]))
    carries[torch.arange(len(starts)) + starts] = loss_mask.values()
    return pad(carries.roll(-1), (0, pad_size))

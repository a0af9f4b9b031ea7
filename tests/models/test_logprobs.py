import pytest
import torch
from torch.nn.functional import log_softmax
from verl.utils.torch_functional import entropy_from_logits

from qwen3vl_rl.models import logprobs as token_scores
from qwen3vl_rl.models.logprobs import precedes_loss, score_tokens
from qwen3vl_rl.training.workload import HEAD_TOKENS


@pytest.fixture
def drawn():
    """Logits (50, 30), labels and temperatures (50,)."""
    random = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(50, 30, generator=random)
    return logits, torch.randint(30, (50,), generator=random), 0.5 + torch.rand(50, generator=random)


@pytest.mark.parametrize("chunk", [7, 64])
@pytest.mark.parametrize("warm", [False, True])
def test_scores_and_gradients_are_those_of_the_definition(drawn, monkeypatch, chunk, warm):
    monkeypatch.setattr(token_scores, "CHUNK_TOKENS", chunk)
    logits, labels, temperature = drawn
    ours, plain = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    log_probs, entropy = score_tokens(ours, labels, temperature if warm else None, True)
    scaled = plain / temperature[:, None] if warm else plain
    expected = log_softmax(scaled, dim=-1)[torch.arange(50), labels]
    torch.testing.assert_close(log_probs, expected)
    torch.testing.assert_close(entropy, entropy_from_logits(scaled))
    weight = torch.linspace(-1, 1, 50)
    (weight * log_probs).sum().backward()
    (weight * expected).sum().backward()
    torch.testing.assert_close(ours.grad, plain.grad)


def test_a_temperature_of_zero_is_raised_to_verls_lower_bound(drawn):
    logits, _, _ = drawn
    log_probs, _ = score_tokens(logits, logits.argmax(dim=-1), torch.zeros(50), False)
    torch.testing.assert_close(log_probs, torch.zeros(50))


def test_no_tokens_have_no_scores():
    log_probs, entropy = score_tokens(torch.zeros(0, 30), torch.zeros(0, dtype=torch.long), None, False)
    assert log_probs.shape == (0,) and entropy is None


def ragged(*rows: list[int]) -> torch.Tensor:
    return torch.nested.as_nested_tensor([torch.tensor(row) for row in rows], layout=torch.jagged)


def test_logits_are_needed_where_the_next_token_carries_loss():
    mask = ragged([0, 0, 1, 1], [0, 1], [0, 0, 0, 1])
    assert precedes_loss(mask, mask.offsets(), 6).nonzero().flatten().tolist() == [1, 2, 4, 8]


def test_masks_of_responses_cover_the_end_of_their_samples():
    ends = torch.tensor([0, 5, 8])
    assert precedes_loss(ragged([1, 0, 1], [1]), ends, 0).nonzero().flatten().tolist() == [1, 3, 6]


def test_recomputed_logits_give_the_same_scores_and_gradients(monkeypatch):
    draw = torch.Generator().manual_seed(0)
    head = torch.nn.Linear(8, 50, bias=False)
    states, labels = torch.randn(20, 8, generator=draw), torch.randint(50, (20,), generator=draw)
    found = []
    for tokens in (100, 7):
        monkeypatch.setattr(token_scores, "HEAD_TOKENS", tokens)
        head.zero_grad()
        hidden = states.clone().requires_grad_()
        scored = token_scores.Scored(torch.arange(20), labels, torch.full((20,), 0.7), with_entropy=True)
        scores = token_scores.score_hidden(head, hidden, scored)
        (scores * torch.arange(40.0).reshape(20, 2)).sum().backward()
        found.append((scores.detach(), hidden.grad, head.weight.grad.clone()))
    torch.testing.assert_close(*found)


def test_the_planner_uses_the_same_number_of_logits():
    assert HEAD_TOKENS == token_scores.HEAD_TOKENS

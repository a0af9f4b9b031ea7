import pytest
import torch
from verl.trainer.ppo.core_algos import compute_policy_loss_gspo, get_policy_loss_fn
from verl.workers.config import FSDPActorConfig

from qwen3vl_rl.verl_ext.policy_loss import gspo_on_policy, gspo_sequence_mean


@pytest.fixture
def batch():
    """Four answers of different lengths."""
    torch.manual_seed(0)
    mask = (torch.arange(7) < torch.tensor([[7], [3], [5], [1]])).float()
    return {"advantages": torch.randn(4, 1).expand(4, 7), "response_mask": mask}


def loss_of(loss_fn, old: torch.Tensor, current: torch.Tensor, mode: str, batch: dict):
    """(loss, gradient, metrics)."""
    actor = FSDPActorConfig(strategy="fsdp2", use_dynamic_bsz=True, rollout_n=2, clip_ratio=0.2)
    log_prob = current.clone().requires_grad_()
    loss, metrics = loss_fn(old_log_prob=old, log_prob=log_prob, loss_agg_mode=mode, config=actor, **batch)
    loss.backward()
    return loss.detach(), log_prob.grad, metrics


def test_loss_and_gradient_are_those_of_gspo_with_the_current_policy_as_the_old_one(batch):
    current, rollout, mode, mask = -torch.rand(4, 7), -torch.rand(4, 7), "seq-mean-token-mean", batch["response_mask"]
    *found, metrics = loss_of(gspo_on_policy, rollout, current, mode, batch)
    *expected, _ = loss_of(compute_policy_loss_gspo, current, current, mode, batch)
    torch.testing.assert_close(found, expected)
    assert found[1].abs().sum() > 0
    difference = ((current - rollout).abs() * mask).sum() / mask.sum()
    assert metrics["actor/rollout_log_prob_diff"] == pytest.approx(difference.item(), rel=1e-5)


@pytest.mark.parametrize("loss_fn", [gspo_sequence_mean, gspo_on_policy])
def test_the_mean_over_sequences_does_not_depend_on_the_mode_of_the_kl_term(loss_fn, batch):
    current = -torch.rand(4, 7)
    old = current if loss_fn is gspo_on_policy else current - torch.rand(4, 7) / 10
    *expected, _ = loss_of(compute_policy_loss_gspo, old, current, "seq-mean-token-mean", batch)
    *found, _ = loss_of(loss_fn, old, current, "token-mean", batch)
    *other, _ = loss_of(compute_policy_loss_gspo, old, current, "token-mean", batch)
    torch.testing.assert_close(found, expected)
    assert not torch.allclose(other[1], expected[1])


@pytest.mark.parametrize("loss_fn", [gspo_sequence_mean, gspo_on_policy])
def test_verl_finds_it_by_name(loss_fn):
    assert get_policy_loss_fn(loss_fn.__name__) is loss_fn

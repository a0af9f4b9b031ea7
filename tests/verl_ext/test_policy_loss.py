import pytest
import torch
from verl.trainer.ppo.core_algos import compute_policy_loss_gspo, get_policy_loss_fn
from verl.workers.config import FSDPActorConfig

from qwen3vl_rl.verl_ext.policy_loss import gspo_on_policy


def test_loss_and_gradient_are_those_of_gspo_with_the_current_policy_as_the_old_one():
    torch.manual_seed(0)
    actor = FSDPActorConfig(strategy="fsdp2", use_dynamic_bsz=True, rollout_n=2, clip_ratio=0.2)
    current, rollout = -torch.rand(4, 7), -torch.rand(4, 7)
    advantages = torch.randn(4, 1).expand(4, 7)
    mask = (torch.arange(7) < torch.tensor([[7], [3], [5], [1]])).float()
    found = {}
    for name, loss_fn, old in (("ours", gspo_on_policy, rollout), ("verl's", compute_policy_loss_gspo, current)):
        log_prob = current.clone().requires_grad_()
        loss, metrics = loss_fn(
            old_log_prob=old,
            log_prob=log_prob,
            advantages=advantages,
            response_mask=mask,
            loss_agg_mode="seq-mean-token-mean",
            config=actor,
        )
        loss.backward()
        found[name] = (loss.detach(), log_prob.grad)
        if name == "ours":
            difference = ((current - rollout).abs() * mask).sum() / mask.sum()
            assert metrics["actor/rollout_log_prob_diff"] == pytest.approx(difference.item(), rel=1e-5)
    torch.testing.assert_close(found["ours"], found["verl's"])
    assert found["ours"][1].abs().sum() > 0


def test_verl_finds_it_by_name():
    assert get_policy_loss_fn("gspo_on_policy") is gspo_on_policy

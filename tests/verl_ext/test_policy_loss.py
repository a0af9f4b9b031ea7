"""Every `algorithm=` against its formula on small tensors, and all losses with one update per batch."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from torch import Tensor
from verl.trainer.ppo.core_algos import POLICY_LOSS_REGISTRY, compute_policy_loss_geo_mean, get_policy_loss_fn
from verl.utils.config import omega_conf_to_dataclass
from verl.workers.config import ActorConfig

import qwen3vl_rl.training.recipe  # finds verl's configs
import qwen3vl_rl.verl_ext.policy_loss  # noqa: F401 (registers the losses)

pytestmark = pytest.mark.slow

CONFIG = Path(__file__).parents[2] / "qwen3vl_rl" / "config"
ALGORITHMS = sorted(path.stem for path in (CONFIG / "algorithm").glob("*.yaml"))
CHOOSING = {"clip_cov", "kl_cov"}  # treat some tokens of each micro-batch differently
TOKENS = 7
LENGTHS = torch.tensor([[7], [3], [5], [1]])
SEQUENCE_MEAN = "actor_rollout_ref.actor.loss_agg_mode=seq-mean-token-mean"


@cache
def composed(*overrides: str) -> DictConfig:
    given = ["size=2b", "hardware=gpu1", f"data.max_response_length={TOKENS}", "actor_rollout_ref.model.path=m"]
    with initialize_config_dir(str(CONFIG), version_base=None):
        return compose("grounding_grpo", [*given, *overrides])


def actor_of(algorithm: str, *overrides: str) -> ActorConfig:
    """The actor's config as verl builds it from the recipe."""
    return omega_conf_to_dataclass(composed(f"algorithm={algorithm}", *overrides).actor_rollout_ref.actor)


@pytest.fixture
def batch() -> dict[str, Tensor]:
    """Four answers of different lengths; log-probabilities in -0.5..0, ratios from 0.7 to 1.4."""
    torch.manual_seed(0)
    log_prob = -torch.rand(4, TOKENS) / 2
    return {
        "old_log_prob": log_prob + (torch.rand(4, TOKENS) - 0.5) * 0.7,
        "log_prob": log_prob,
        "advantages": torch.tensor([[1.0], [-0.7], [-1.2], [0.9]]).expand(4, TOKENS),
        "response_mask": (torch.arange(TOKENS) < LENGTHS).float(),
    }


def loss_of(actor: ActorConfig, batch: dict[str, Tensor], whole: dict[str, Tensor] | None = None, ranks: int = 1):
    """(loss, gradient, metrics) of a micro-batch of the batch `whole`, on one of `ranks` ranks."""
    mask = (whole or batch)["response_mask"]
    counts = {"batch_num_tokens": int(mask.sum()), "global_batch_size": len(mask), "dp_size": ranks}
    actor.global_batch_info.update(counts, loss_scale_factor=actor.loss_scale_factor)
    log_prob = batch["log_prob"].clone().requires_grad_()
    loss_fn = get_policy_loss_fn(actor.policy_loss.loss_mode)
    loss, metrics = loss_fn(
        **batch | {"log_prob": log_prob}, loss_agg_mode=actor.loss_agg_mode, config=actor, rollout_is_weights=None
    )
    loss.backward()
    return loss.detach(), log_prob.grad, metrics


def sequence_mean(loss: Tensor, mask: Tensor) -> Tensor:
    return ((loss * mask).sum(-1) / mask.sum(-1)).mean()


def token_mean(loss: Tensor, mask: Tensor) -> Tensor:
    return (loss * mask).sum() / mask.sum()


def sum_by_a_constant(loss: Tensor, mask: Tensor) -> Tensor:
    return (loss * mask).sum(-1).mean() / TOKENS


def clipped(ratio: Tensor, advantages: Tensor, low: float, high: float, dual: float = float("inf")) -> Tensor:
    """PPO's loss per token; for bad answers at most `dual` times the advantage."""
    loss = -torch.min(ratio * advantages, ratio.clamp(1 - low, 1 + high) * advantages)
    return torch.where(advantages < 0, loss.clamp(max=-advantages * dual), loss)


def gspo(old: Tensor, log_prob: Tensor, advantages: Tensor, mask: Tensor) -> Tensor:
    mean = ((log_prob - old) * mask).sum(-1, keepdim=True) / mask.sum(-1, keepdim=True)
    return sequence_mean(clipped(mean.exp(), advantages, 0.2, 0.2).expand_as(mask), mask)


def sapo(old: Tensor, log_prob: Tensor, advantages: Tensor, mask: Tensor) -> Tensor:
    slope = torch.where(advantages > 0, 1.0, 1.05)
    gate = torch.sigmoid(slope * ((log_prob - old).exp() - 1)) * 4 / slope
    return sequence_mean(-gate * advantages, mask)


def gmpo(old: Tensor, log_prob: Tensor, advantages: Tensor, mask: Tensor) -> Tensor:
    moved, sign = log_prob - old, advantages.sign()
    bounded = sign * torch.min(sign * moved, sign * moved.clamp(-0.4, 0.4))
    return (-advantages[:, 0] * ((bounded * mask).sum(-1) / mask.sum(-1)).exp()).mean()


def dppo_tv(old: Tensor, log_prob: Tensor, advantages: Tensor, mask: Tensor) -> Tensor:
    moved = log_prob.exp() - old.exp()
    near = torch.where(advantages > 0, moved <= 0.15, moved >= -0.15)
    return sum_by_a_constant(-advantages * (log_prob - old).exp() * log_prob * near, mask)


def dppo_kl(old: Tensor, log_prob: Tensor, advantages: Tensor, mask: Tensor) -> Tensor:
    now, then = log_prob.exp(), old.exp()
    divergence = then * (old - log_prob) + (1 - then) * ((1 - then).log() - (1 - now).log())
    near = (divergence <= 0.05) | torch.where(advantages > 0, now <= then, now >= then)
    return sum_by_a_constant(-advantages * (log_prob - old).exp() * log_prob * near, mask)


def covariance(log_prob: Tensor, advantages: Tensor, mask: Tensor) -> Tensor:
    return (advantages - token_mean(advantages, mask)) * (log_prob - token_mean(log_prob, mask))


def kl_cov(old: Tensor, log_prob: Tensor, advantages: Tensor, mask: Tensor) -> Tensor:
    """With so few tokens, one of them gets the KL term."""
    found = covariance(log_prob, advantages, mask).masked_fill(mask == 0, -torch.inf)
    held = torch.zeros_like(mask)
    held.view(-1)[found.argmax()] = 1
    return token_mean(-advantages * (log_prob - old).exp() + held * (log_prob - old).abs(), mask)


FORMULAS: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]] = {
    "gspo": gspo,
    "gspo_released": gspo,
    "grpo": lambda old, new, a, mask: sequence_mean(clipped((new - old).exp(), a, 0.2, 0.2, 3.0), mask),
    "dr_grpo": lambda old, new, a, mask: sum_by_a_constant(clipped((new - old).exp(), a, 0.2, 0.2, 3.0), mask),
    "dapo": lambda old, new, a, mask: token_mean(clipped((new - old).exp(), a, 0.2, 0.28, 10.0), mask),
    "cispo": lambda old, new, a, mask: token_mean(-(new - old).exp().clamp(max=1.2) * a * new, mask),
    "sapo": sapo,
    "gmpo": gmpo,
    "gpg": lambda old, new, a, mask: token_mean(-a * new, mask),
    "dppo_tv": dppo_tv,
    "dppo_kl": dppo_kl,
    # None of these tokens lowers the entropy enough to be dropped.
    "clip_cov": lambda old, new, a, mask: token_mean(clipped((new - old).exp(), a, 1.0, 1.0), mask),
    "kl_cov": kl_cov,
}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_an_algorithm_computes_its_formula(algorithm, batch):
    loss, *_ = loss_of(actor_of(algorithm), batch)
    torch.testing.assert_close(loss, FORMULAS[algorithm](*batch.values()))


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("algorithm", sorted({*ALGORITHMS} - CHOOSING))
def test_micro_batches_add_up_to_the_whole(algorithm, ranks, batch):
    """The micro-batches of a rank are summed, ranks are averaged."""
    actor = actor_of(algorithm)
    loss, gradient, _ = loss_of(actor, batch)
    parts = [{name: x[rows] for name, x in batch.items()} for rows in (slice(0, 1), slice(1, 4))]
    losses, gradients, _ = zip(*(loss_of(actor, part, batch, ranks) for part in parts), strict=True)
    torch.testing.assert_close(sum(losses) / ranks, loss)
    torch.testing.assert_close(torch.cat(gradients) / ranks, gradient)


def test_clip_cov_drops_a_token_that_would_lower_the_entropy(batch):
    batch["log_prob"][0, 0] = batch["old_log_prob"][0, 0] = 0.0  # certain and good
    batch["log_prob"][1:] = batch["old_log_prob"][1:] = -3.0
    found = covariance(batch["log_prob"], batch["advantages"], batch["response_mask"]) * batch["response_mask"]
    _, gradient, _ = loss_of(actor_of("clip_cov"), batch)
    left_out = (gradient == 0) & (batch["response_mask"] == 1)
    assert left_out.sum() == 1 and 1 < found[left_out].item() < 5


def test_verl_still_sums_the_means_of_geo_mean(batch):
    """If this fails, `gmpo` is no longer needed."""
    actor = actor_of("gmpo")
    parts = [{name: x[rows] for name, x in batch.items()} for rows in (slice(0, 1), slice(1, 4))]
    whole, *found = (compute_policy_loss_geo_mean(**part, config=actor)[0] for part in (batch, *parts))
    assert not torch.isclose(sum(found), whole, rtol=0.1)


@pytest.mark.parametrize("algorithm", sorted({*ALGORITHMS} - {"clip_cov"}))
def test_all_losses_have_the_same_gradient_at_a_ratio_of_1(algorithm, batch):
    """With the same mean; clip_cov is left out, because it drops tokens."""
    batch["old_log_prob"] = batch["log_prob"]
    _, gradient, _ = loss_of(actor_of(algorithm, SEQUENCE_MEAN), batch)
    torch.testing.assert_close(gradient, -batch["advantages"] * batch["response_mask"] / LENGTHS / 4)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_without_a_pass_for_the_old_policy_the_current_one_is_used(algorithm, batch):
    actor, mask = actor_of(algorithm, "speed=fast"), batch["response_mask"]
    *found, metrics = loss_of(actor, batch)
    *expected, _ = loss_of(actor_of(algorithm), batch | {"old_log_prob": batch["log_prob"]})
    torch.testing.assert_close(found, expected)
    difference = token_mean((batch["log_prob"] - batch["old_log_prob"]).abs(), mask)
    assert metrics["actor/rollout_log_prob_diff"] == pytest.approx(difference.item(), rel=1e-5)


def test_verls_own_loss_for_bypass_mode_is_unchanged():
    assert POLICY_LOSS_REGISTRY["bypass_mode"].__module__ == "verl.trainer.ppo.core_algos"
    assert not hasattr(POLICY_LOSS_REGISTRY["bypass_mode"], "__wrapped__")


def test_gspo_of_the_release_does_not_depend_on_the_mode_of_the_kl_term(batch):
    released = actor_of("gspo_released")
    assert released.loss_agg_mode == "token-mean"
    *found, _ = loss_of(released, batch)
    *expected, _ = loss_of(actor_of("gspo"), batch)
    torch.testing.assert_close(found, expected)

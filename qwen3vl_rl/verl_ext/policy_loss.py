"""verl's policy losses on policy, without a pass for the old policy's log-probabilities, and two averaged otherwise.

With one update per batch (`ppo_mini_batch_size` equal to `train_batch_size`, one epoch) the old policy is the current
one: every ratio is 1, and only its gradient matters. verl 0.9.1 computes the old log-probabilities all the same. With
`algorithm.rollout_correction.bypass_mode` it hands on the rollout's instead. If `loss_type` there is `on_policy`, which
is ours, every loss takes the current policy's (`speed=fast`): those of verl and of this module. A loss that a module of
a user's own registers later does so where it is wrapped in `on_policy`.

Names of our own:
- `gspo_sequence_mean`: verl averages GSPO's own term as `actor.loss_agg_mode` says, and the KL term with it. The
  release's verl takes a mean over sequences for the former whatever its script says, and this does (`recipe=released`).
- `gmpo`: verl's `geo_mean` is a mean over the answers of a micro-batch. verl adds up the micro-batches of an update, so
  that the loss would grow with their number. This is a mean over the answers of the update.
"""

from functools import wraps

import torch
from verl.trainer.ppo.core_algos import (
    POLICY_LOSS_REGISTRY,
    PolicyLossFn,
    compute_policy_loss_geo_mean,
    compute_policy_loss_gspo,
    register_policy_loss,
)
from verl.utils.torch_functional import masked_mean
from verl.workers.config import ActorConfig

from qwen3vl_rl.training.recipe import ON_POLICY

OF_BYPASS_MODE = "bypass_mode"  # verl's own loss for that mode, which needs the rollout's log-probabilities

Loss = tuple[torch.Tensor, dict[str, float]]  # and metrics


@register_policy_loss("gspo_sequence_mean")
def gspo_sequence_mean(
    old_log_prob: torch.Tensor, log_prob: torch.Tensor, advantages: torch.Tensor, response_mask: torch.Tensor, **options
) -> Loss:
    """All tensors are (samples, answer tokens)."""
    options["loss_agg_mode"] = "seq-mean-token-mean"
    return compute_policy_loss_gspo(old_log_prob, log_prob, advantages, response_mask, **options)


@register_policy_loss("gmpo")
def gmpo(
    old_log_prob: torch.Tensor,
    log_prob: torch.Tensor,
    advantages: torch.Tensor,
    response_mask: torch.Tensor,
    *,
    config: ActorConfig,
    **options,
) -> Loss:
    """All tensors are (samples, answer tokens)."""
    loss, metrics = compute_policy_loss_geo_mean(
        old_log_prob, log_prob, advantages, response_mask, config=config, **options
    )
    batch = config.global_batch_info
    share = len(log_prob) / batch["global_batch_size"]  # of the answers of all ranks, over which verl averages
    return loss * share * batch["dp_size"], metrics


def on_policy(loss_fn: PolicyLossFn) -> PolicyLossFn:
    """`loss_fn`, which takes the current policy for the old one where the recipe says so.

    `old_log_prob` holds the rollout's log-probabilities then. The metric `actor/rollout_log_prob_diff` is their mean
    absolute difference from the actor's. The rollout's are those of the distribution that was sampled from, with top-k
    and top-p, so that 0 is expected without these alone.
    """

    @wraps(loss_fn)
    def computed(
        *,
        old_log_prob: torch.Tensor,
        log_prob: torch.Tensor,
        response_mask: torch.Tensor,
        config: ActorConfig,
        **options,
    ) -> Loss:
        policy_loss = config.get("policy_loss")  # none where verl distils
        correction = policy_loss and policy_loss.rollout_correction
        is_on_policy = correction and correction.bypass_mode and correction.loss_type == ON_POLICY
        current = log_prob.detach()
        loss, metrics = loss_fn(
            old_log_prob=current if is_on_policy else old_log_prob,
            log_prob=log_prob,
            response_mask=response_mask,
            config=config,
            **options,
        )
        if is_on_policy:
            difference = masked_mean((current - old_log_prob).abs(), response_mask)
            metrics = metrics | {"actor/rollout_log_prob_diff": difference.item()}
        return loss, metrics

    return computed


for name, loss_fn in [*POLICY_LOSS_REGISTRY.items()]:
    if name != OF_BYPASS_MODE:
        register_policy_loss(name)(on_policy(loss_fn))

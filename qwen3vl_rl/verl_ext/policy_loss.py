"""verl's policy losses without a pass for the old policy's log-probabilities, and two losses with another mean.

With one update per batch (`ppo_mini_batch_size` equal to `train_batch_size`, one epoch), the old policy is the current
one: every ratio is 1, and only its gradient matters. verl 0.9.1 computes the old log-probabilities anyway. With
`algorithm.rollout_correction.bypass_mode` it passes on the rollout's instead. With our `loss_type=on_policy` there,
every loss of verl and of this module uses the current policy's (`speed=fast`). A loss that a user's module registers
later does so only if it is wrapped in `on_policy`.

Our own losses:
- `gspo_sequence_mean`: verl averages both GSPO's own term and the KL term as `actor.loss_agg_mode` says. The release's
  verl always takes the mean over sequences for the former, and so does this loss (`recipe=released`).
- `gmpo`: verl's `geo_mean` is the mean over the answers of a micro-batch. verl sums the micro-batches of an update, so
  that the loss would grow with their number. This loss is the mean over the answers of the update.
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

OF_BYPASS_MODE = "bypass_mode"  # verl's own loss for this mode; it needs the rollout's log-probabilities

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
    share = len(log_prob) / batch["global_batch_size"]  # of all ranks' answers; verl averages over ranks
    return loss * share * batch["dp_size"], metrics


def on_policy(loss_fn: PolicyLossFn) -> PolicyLossFn:
    """Wrap `loss_fn` so that the current policy replaces the old one if the recipe says so.

    `old_log_prob` then holds the rollout's log-probabilities. The metric `actor/rollout_log_prob_diff` is their mean
    absolute difference from the actor's. The rollout's are those of the distribution after top-k and top-p. Only
    without these is a difference of 0 expected.
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
        policy_loss = config.get("policy_loss")  # None for distillation
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

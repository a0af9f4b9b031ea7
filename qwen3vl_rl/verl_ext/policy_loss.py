"""GSPO for one update per batch, without a pass for the old policy's log-probabilities.

Where every batch is trained on once (`ppo_mini_batch_size` equal to `train_batch_size`, one epoch), the old policy is
the current one: the ratio is 1 whatever the old log-probabilities are, and only its gradient matters. verl 0.9.1
computes them all the same; `algorithm.rollout_correction.bypass_mode` makes it hand on the rollout's instead, which
this loss reports on and does not use. Chosen with `actor.policy_loss.loss_mode=gspo_on_policy`.
"""

import torch
from verl.trainer.ppo.core_algos import compute_policy_loss_gspo, register_policy_loss
from verl.utils.torch_functional import masked_mean


@register_policy_loss("gspo_on_policy")
def gspo_on_policy(
    old_log_prob: torch.Tensor, log_prob: torch.Tensor, advantages: torch.Tensor, response_mask: torch.Tensor, **options
) -> tuple[torch.Tensor, dict[str, float]]:
    """`old_log_prob` holds the rollout's log-probabilities; all tensors are (samples, answer tokens).

    The metric `actor/rollout_log_prob_diff` is their mean absolute difference from the actor's. The rollout's are those
    of the distribution that was sampled from, with top-k and top-p, so that 0 is expected without these alone.
    """
    loss, metrics = compute_policy_loss_gspo(log_prob.detach(), log_prob, advantages, response_mask, **options)
    difference = (log_prob.detach() - old_log_prob).abs()
    return loss, metrics | {"actor/rollout_log_prob_diff": masked_mean(difference, response_mask).item()}

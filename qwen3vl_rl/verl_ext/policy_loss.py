"""GSPO averaged over sequences, with or without a pass for the old policy's log-probabilities.

verl 0.9.1 averages GSPO's own term as `actor.loss_agg_mode` says, and the KL term with it. GSPO is defined as a mean
over sequences of means over tokens. The losses here always are one, so that `loss_agg_mode` decides about the KL term
alone. The release's verl does the same, where its script says token-mean.

- `gspo_sequence_mean`: verl's GSPO in all else (`recipe=released`).
- `gspo_on_policy`: for one update per batch (`ppo_mini_batch_size` equal to `train_batch_size`, one epoch). The old
  policy is the current one there: the ratio is 1 whatever the old log-probabilities are, and only its gradient matters.
  verl computes them all the same. `algorithm.rollout_correction.bypass_mode` makes it hand on the rollout's instead,
  which this loss reports on and does not use (`speed=fast`).
"""

import torch
from verl.trainer.ppo.core_algos import compute_policy_loss_gspo, register_policy_loss
from verl.utils.torch_functional import masked_mean


@register_policy_loss("gspo_sequence_mean")
def gspo_sequence_mean(
    old_log_prob: torch.Tensor, log_prob: torch.Tensor, advantages: torch.Tensor, response_mask: torch.Tensor, **options
) -> tuple[torch.Tensor, dict[str, float]]:
    """All tensors are (samples, answer tokens)."""
    options["loss_agg_mode"] = "seq-mean-token-mean"
    return compute_policy_loss_gspo(old_log_prob, log_prob, advantages, response_mask, **options)


@register_policy_loss("gspo_on_policy")
def gspo_on_policy(
    old_log_prob: torch.Tensor, log_prob: torch.Tensor, advantages: torch.Tensor, response_mask: torch.Tensor, **options
) -> tuple[torch.Tensor, dict[str, float]]:
    """`old_log_prob` holds the rollout's log-probabilities; all tensors are (samples, answer tokens).

    The metric `actor/rollout_log_prob_diff` is their mean absolute difference from the actor's. The rollout's are those
    of the distribution that was sampled from, with top-k and top-p, so that 0 is expected without these alone.
    """
    loss, metrics = gspo_sequence_mean(log_prob.detach(), log_prob, advantages, response_mask, **options)
    difference = (log_prob.detach() - old_log_prob).abs()
    return loss, metrics | {"actor/rollout_log_prob_diff": masked_mean(difference, response_mask).item()}

"""What a resumed run must share with the run in its folder."""

import itertools
import json
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from qwen3vl_rl.errors import InputError
from qwen3vl_rl.training.checkpoints import latest_step
from qwen3vl_rl.training.recipe import LORA
from qwen3vl_rl.training.run_folder import LATEST, earlier_recipe, files_hash, resumes_latest
from qwen3vl_rl.training.workload import TRAINING_ENGINE

REWARD = "reward.custom_reward_function"
REWARD_HASH = "trainer.reward_sha256"  # in the recipe of a run whose reward is the user's own

# Settings that may not change when a run resumes: they set the data, the answers, the loss and the update. The others
# (logging, saving, the length of the run, the machine and its use) may change.
SAME_RUN = (
    REWARD,
    "algorithm",
    *(f"data.{name}" for name in ("train_files", "val_files", "train_batch_size", "seed", "mm_processor_kwargs")),
    *(f"data.{name}" for name in ("max_prompt_length", "max_response_length", "image_patch_size")),
    *(f"trainer.{name}" for name in ("train_files_sha256", "val_files_sha256", "v1.trainer_mode")),
    *(f"actor_rollout_ref.model.{name}" for name in ("path", *LORA)),
    f"{TRAINING_ENGINE}.freeze_vision",
    *(f"actor_rollout_ref.rollout.{name}" for name in ("n", "temperature", "top_p", "top_k")),
    *(f"actor_rollout_ref.actor.policy_loss.{name}" for name in ("loss_mode", "dro_beta", "ppo_kl_coef")),
    *(f"actor_rollout_ref.actor.policy_loss.{name}_ratio" for name in ("clip_cov", "kl_cov")),
    *(f"actor_rollout_ref.actor.policy_loss.clip_cov_{end}" for end in ("lb", "ub")),
    *(f"actor_rollout_ref.actor.{name}" for name in ("loss_agg_mode", "loss_scale_factor", "tau_pos", "tau_neg")),
    *(f"actor_rollout_ref.actor.{name}" for name in ("entropy_coeff", "grad_clip")),
    *(f"actor_rollout_ref.actor.clip_ratio{end}" for end in ("", "_low", "_high", "_c")),
    *(f"actor_rollout_ref.actor.{name}" for name in ("use_kl_loss", "kl_loss_coef", "kl_loss_type")),
    *(f"actor_rollout_ref.actor.{name}" for name in ("ppo_mini_batch_size", "ppo_epochs", "optim")),
)

KINDS = ("model", "optim", "extra_state")  # of files; each rank writes one of each


def check_reward_files(config: DictConfig) -> None:
    """A reward of the user's own is the same file when a run resumes. Its SHA-256 is recorded in the recipe."""
    reward = OmegaConf.select(config, REWARD)
    named = (reward.reward_kwargs.reward_type.rpartition(":")[0], (reward.path or "").removeprefix("file://"))
    if not (files := [path for path in named if Path(path).is_file()]):
        return
    OmegaConf.update(config, REWARD_HASH, now := files_hash(files), force_add=True)
    then = OmegaConf.select(earlier_recipe(config) or OmegaConf.create(), REWARD_HASH)
    if then not in (None, now):
        run = f"the run in {config.trainer.default_local_dir}"
        advice = "restore it, or choose a folder with trainer.default_local_dir=…"
        raise InputError(f"{' or '.join(files)}: expected the reward of {run}, found it changed; {advice}")


def check_whole(config: DictConfig) -> None:
    """The checkpoint from which a run resumes is complete. It may have been written on another number of GPUs."""
    folder = Path(config.trainer.default_local_dir)
    if not resumes_latest(config):
        return
    step = latest_step(folder)
    newest = folder / f"global_step_{step}"
    shards = newest / "actor" if (newest / "actor").is_dir() else newest  # stage 2, or stage 1
    try:
        ranks = json.loads((shards / "fsdp_config.json").read_text())["world_size"]
    except (OSError, ValueError, KeyError):
        raise InputError(
            f"{folder}: expected a complete checkpoint in global_step_{step}, which {LATEST} names"
        ) from None
    if config.trainer.nnodes > 1:  # other nodes may have their own disks
        return
    for kind, rank in itertools.product(KINDS, range(ranks)):
        if not (shard := shards / f"{kind}_world_size_{ranks}_rank_{rank}.pt").exists():
            raise InputError(f"{shard}: expected all {ranks} shards of this checkpoint, found no such file")

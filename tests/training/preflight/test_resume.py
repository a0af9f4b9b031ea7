import itertools
import json

import pytest
from omegaconf import OmegaConf

from qwen3vl_rl.errors import InputError
from qwen3vl_rl.training.preflight import resume
from qwen3vl_rl.training.run_folder import LATEST, RECIPE_FILE, check_same_run

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    "change",
    [
        "actor_rollout_ref.model.lora_alpha=7", "actor_rollout_ref.actor.optim.weight_decay=0.5",
        "actor_rollout_ref.actor.grad_clip=9", "actor_rollout_ref.actor.clip_ratio_low=0.1",
        "trainer.v1.trainer_mode=colocate_async", "+trainer.val_files_sha256=other",
    ],
)  # fmt: skip
def test_a_run_resumes_only_with_its_own_settings(recipe, tmp_path, change):
    place = f"trainer.default_local_dir={tmp_path}"
    OmegaConf.save(recipe(place), tmp_path / RECIPE_FILE)
    (tmp_path / LATEST).write_text("2")
    check_same_run(recipe(place, "trainer.total_training_steps=9", "trainer.save_freq=3"), resume.SAME_RUN)
    with pytest.raises(InputError, match=rf"\({change.partition('=')[0].removeprefix('+')}: .* there, .* here\)"):
        check_same_run(recipe(place, change), resume.SAME_RUN)


@pytest.mark.parametrize("place", ["reward.function={}:mine", "reward.custom_reward_function.path={}"])
def test_a_run_resumes_only_with_its_own_reward(recipe, tmp_path, place):
    file, folder = tmp_path / "mine.py", f"trainer.default_local_dir={tmp_path}"
    chosen = ["reward=custom", "reward.function=mix", place.format(file)]
    file.write_text("def mine(parts):\n    return parts.iou\n")
    resume.check_reward_files(first := recipe(folder, *chosen))
    OmegaConf.save(first, tmp_path / RECIPE_FILE)
    file.write_text("def mine(parts):\n    return 1.0\n")
    resume.check_reward_files(recipe(folder, *chosen))  # no checkpoint was saved
    (tmp_path / LATEST).write_text("2")
    with pytest.raises(InputError, match=rf"^{file}: expected the reward of the run in {tmp_path}, found it changed"):
        resume.check_reward_files(recipe(folder, *chosen))
    resume.check_reward_files(recipe(folder))
    OmegaConf.save(recipe(folder, *chosen), tmp_path / RECIPE_FILE)  # an earlier version recorded nothing
    resume.check_reward_files(recipe(folder, *chosen))
    check_same_run(recipe(folder, *chosen), resume.SAME_RUN)


@pytest.mark.parametrize("ranks", [1, 4])
def test_a_complete_checkpoint_is_resumed_on_any_number_of_gpus(config, tmp_path, ranks):
    shards = tmp_path / "run" / "global_step_5" / "actor"
    shards.mkdir(parents=True)
    (shards / "fsdp_config.json").write_text(json.dumps({"world_size": ranks, "FSDP_version": 2}))
    resume.check_whole(config)  # not recorded yet
    (tmp_path / "run" / "latest_checkpointed_iteration.txt").write_text("5")
    for kind, rank in itertools.product(("model", "optim", "extra_state"), range(ranks)):
        name = f"{kind}_world_size_{ranks}_rank_{rank}.pt"
        with pytest.raises(InputError, match=rf"{name}: expected all {ranks} shards of this checkpoint"):
            resume.check_whole(config)
        (shards / name).touch()
    resume.check_whole(config)


@pytest.mark.parametrize(
    "override",
    [
        "actor_rollout_ref.actor.kl_loss_coef=0.1",
        "actor_rollout_ref.rollout.temperature=1",
        "data.seed=7",
        "data.val_files=other",
        "actor_rollout_ref.actor.fsdp_config.freeze_vision=true",
    ],
)
def test_a_folder_holds_one_run(recipe, tmp_path, override):
    folder = f"trainer.default_local_dir={tmp_path}"
    OmegaConf.save(recipe(folder), tmp_path / RECIPE_FILE)
    (tmp_path / LATEST).write_text("2")
    check_same_run(recipe(folder, "trainer.total_training_steps=99"), resume.SAME_RUN)
    with pytest.raises(InputError, match="holds a run with another"):
        check_same_run(recipe(folder, override), resume.SAME_RUN)


def test_a_record_without_its_checkpoint_is_named(recipe, tmp_path):
    (tmp_path / LATEST).write_text("2")
    with pytest.raises(InputError, match="expected a complete checkpoint in global_step_2"):
        resume.check_whole(recipe(f"trainer.default_local_dir={tmp_path}"))

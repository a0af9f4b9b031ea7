"""A folder is resumed by the run that it holds, and by no other."""

import pytest
from omegaconf import OmegaConf

from qwen3vl_rl.errors import InputError
from qwen3vl_rl.training import starts
from qwen3vl_rl.training.run_folder import LATEST, LOSS, RECIPE_FILE, check_same_run, check_same_workers


@pytest.fixture
def config(tmp_path):
    trainer = {"resume_mode": "auto", "default_local_dir": str(tmp_path / "run")}
    return OmegaConf.create({"trainer": trainer})


@pytest.mark.parametrize("saved", [True, False])
def test_another_run_is_not_continued(config, tmp_path, saved):
    folder = tmp_path / "run"
    folder.mkdir()
    config.reward = {"alpha": 0.5, "threshold": 0.5}
    OmegaConf.save(config, folder / RECIPE_FILE)
    config.reward.threshold = 0.7
    if saved:
        (folder / LATEST).write_text("2")
        with pytest.raises(
            InputError, match=r"holds a run with another reward; .*reward\.threshold: 0\.5 there, 0\.7 here"
        ):
            check_same_run(config, ["reward"])
    check_same_run(config, ["trainer.total_epochs"])
    config.trainer.resume_mode = "disable"
    check_same_run(config, ["reward"])


def test_a_run_from_before_a_setting_did_what_its_default_does(config, tmp_path):
    folder, key = tmp_path / "run", "data.loss_span"
    folder.mkdir()
    (folder / LATEST).write_text("2")
    OmegaConf.save(config, folder / RECIPE_FILE)
    OmegaConf.update(config, key, "answer", force_add=True)
    check_same_run(config, [key])
    OmegaConf.update(config, key, "turn")
    with pytest.raises(InputError, match=r"loss_span: answer there, turn here"):
        check_same_run(config, [key])


def test_a_hidden_secret_makes_no_other_run(config, tmp_path, monkeypatch):
    folder, key = tmp_path / "run", f"{REWARD}.reward_kwargs.api_key"
    folder.mkdir()
    (folder / LATEST).write_text("2")
    OmegaConf.update(config, key, "12ab", force_add=True)
    monkeypatch.setattr(starts, "_given", lambda: [f"+{key}=12ab", "+trainer.x=1"])
    for recipe in (starts.hide_secrets(config), config):  # earlier versions did not hide it
        OmegaConf.save(recipe, folder / RECIPE_FILE)
        check_same_run(config, [REWARD])
    OmegaConf.update(config, f"{REWARD}.name", "other", force_add=True)
    with pytest.raises(InputError, match="holds a run with another reward"):
        check_same_run(config, [REWARD])


FREEZE = "actor_rollout_ref.actor.fsdp_config.freeze_vision"
REWARD = "reward.custom_reward_function"


def test_a_run_whose_recipe_has_former_names_is_resumed(config, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / LATEST).write_text("2")
    former = OmegaConf.merge(config, {"actor_rollout_ref": {"model": {"override_config": {"freeze_vision": True}}}})
    OmegaConf.update(former, f"{REWARD}.reward_kwargs.parser", "house", force_add=True)
    OmegaConf.save(former, folder / RECIPE_FILE)
    OmegaConf.update(config, FREEZE, True, force_add=True)
    OmegaConf.update(config, f"{REWARD}.reward_kwargs.parser", "strict", force_add=True)
    check_same_run(config, [FREEZE, REWARD])
    OmegaConf.update(config, FREEZE, False)
    with pytest.raises(InputError, match=r"freeze_vision: True there, False here"):
        check_same_run(config, [FREEZE, REWARD])


@pytest.mark.parametrize(
    ("mean", "loss"),
    [("seq-mean-token-mean", "gspo"), ("token-mean", "gspo_sequence_mean")],
    ids=["default", "released"],
)
def test_a_fast_run_with_the_former_name_of_its_loss_is_resumed(config, tmp_path, mean, loss):
    folder, key = tmp_path / "run", "actor_rollout_ref.actor.loss_agg_mode"
    folder.mkdir()
    (folder / LATEST).write_text("2")
    OmegaConf.update(config, key, mean, force_add=True)
    OmegaConf.update(config, LOSS, "gspo_on_policy", force_add=True)
    OmegaConf.save(config, folder / RECIPE_FILE)
    OmegaConf.update(config, LOSS, loss)
    OmegaConf.update(config, "algorithm.rollout_correction.loss_type", "on_policy", force_add=True)
    check_same_run(config, [key, LOSS, "algorithm"])


def test_an_earlier_run_of_stage_1_named_its_model_by_a_relative_path(config, tmp_path, monkeypatch):
    folder, key = tmp_path / "run", "model.path"
    for path in (folder, tmp_path / "base", tmp_path / "other"):
        path.mkdir()
    (folder / LATEST).write_text("2")
    OmegaConf.save(OmegaConf.merge(config, {"model": {"path": "base"}}), folder / RECIPE_FILE)
    monkeypatch.chdir(tmp_path)
    OmegaConf.update(config, key, str(tmp_path / "base"), force_add=True)
    check_same_run(config, [key])
    OmegaConf.update(config, key, str(tmp_path / "other"))
    with pytest.raises(InputError, match=r"base there, .*other here"):
        check_same_run(config, [key])


def test_options_of_a_filter_that_is_off_make_no_other_run(config, tmp_path):
    folder, filters = tmp_path / "run", "algorithm.filter_groups"
    folder.mkdir()
    (folder / LATEST).write_text("2")
    OmegaConf.update(config, filters, {"enable": False, "metric": "reward"}, force_add=True)
    OmegaConf.save(config, folder / RECIPE_FILE)
    OmegaConf.update(config, f"{filters}.metric", "acc")
    check_same_run(config, ["algorithm"])
    OmegaConf.update(config, f"{filters}.enable", True)
    with pytest.raises(InputError, match="holds a run with another algorithm"):
        check_same_run(config, ["algorithm"])


def test_a_run_keeps_its_number_of_loading_processes(config, tmp_path):
    folder, key = tmp_path / "run", "data.num_workers"
    folder.mkdir()
    OmegaConf.save(OmegaConf.merge(config, {"data": {"num_workers": 8}}), folder / RECIPE_FILE)
    OmegaConf.update(config, key, 4, force_add=True)
    check_same_workers(config, key)  # no checkpoint was saved
    (folder / LATEST).write_text("2")
    with pytest.raises(InputError, match=r"data\.num_workers=4: expected 8, the value of the run in .*run"):
        check_same_workers(config, key)
    OmegaConf.update(config, "trainer.val_only", True, force_add=True)
    check_same_workers(config, key)  # takes none of the data
    config.trainer.val_only = False
    OmegaConf.update(config, key, 8)
    check_same_workers(config, key)

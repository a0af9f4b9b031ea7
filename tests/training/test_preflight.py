"""Runs that cannot work are refused in one line, before anything is started."""

import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from safetensors.torch import save_file

from examples.starter.build import build_config, build_tokenizer
from qwen3vl_rl.errors import InputError
from qwen3vl_rl.training import preflight
from qwen3vl_rl.training.run_folder import LATEST, RECIPE, check_same_run

CONFIG = Path(__file__).parents[2] / "qwen3vl_rl" / "config"


@pytest.fixture
def recipe():
    """`recipe(*overrides)`: the shipped one, composed."""

    def make(*overrides: str):
        given = ["size=tiny", "hardware=gpu1", "engine=vllm", "actor_rollout_ref.model.path=m", "data.train_files=t"]
        with initialize_config_dir(str(CONFIG), version_base=None):
            return compose("grounding_grpo", [*given, "data.val_files=v", *overrides])

    return make


@pytest.fixture
def config(tmp_path):
    """A recipe of two GPUs, 8 rows and 4 prompts a step."""
    (tmp_path / "image.png").touch()
    write_rows(tmp_path / "train.parquet", [str(tmp_path / "image.png")] * 8)
    rollout = {"name": "vllm", "gpu_memory_utilization": 0.8}
    offloaded = {"param_offload": True, "optimizer_offload": True}
    return OmegaConf.create(
        {
            "trainer": {
                "device": "cuda",
                "n_gpus_per_node": 2,
                "nnodes": 1,
                "total_epochs": 3,
                "total_training_steps": None,
                "default_local_dir": str(tmp_path / "run"),
                "resume_mode": "auto",
            },
            "data": {"train_files": str(tmp_path / "train.parquet"), "train_batch_size": 4},
            "actor_rollout_ref": {
                "rollout": rollout,
                "model": {"path": str(tmp_path / "model")},
                "actor": {"use_kl_loss": True, "fsdp_config": offloaded},
                "ref": {"fsdp_config": {"param_offload": True}},
            },
        }
    )


def write_rows(path: Path, images: list[str]) -> None:
    rows = {name: ["x"] * len(images) for name in preflight.COLUMNS} | {"images": [[image] for image in images]}
    pq.write_table(pa.table(rows), path)


@pytest.fixture
def gpus(tmp_path, monkeypatch):
    """`gpus(mib, mib, …)`: a machine whose nvidia-smi lists GPUs of so much memory."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)

    def make(*mib: int) -> None:
        lines = "".join(f"{index}, GPU-{index}, {memory}\\n" for index, memory in enumerate(mib))
        (tmp_path / "nvidia-smi").write_text(f'#!/bin/sh\nprintf "{lines}"\n')
        (tmp_path / "nvidia-smi").chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    return make


def test_gpus_are_counted_as_cuda_will_see_them(config, gpus, monkeypatch):
    gpus(80_000, 81_000, 82_000)
    assert preflight.gpu_memories_mib() == [80_000, 81_000, 82_000]
    preflight.check_gpus(config)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-2")
    assert preflight.gpu_memories_mib() == [82_000]
    with pytest.raises(InputError, match=r"n_gpus_per_node=2: found 1 GPUs here; hardware=gpu1"):
        preflight.check_gpus(config)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(InputError, match=r"found 0 GPUs here; hardware=cpu"):
        preflight.check_gpus(config)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["trainer.nnodes=0"], r"trainer\.nnodes=0: expected an integer of at least 1"),
        (["trainer.n_gpus_per_node=two"], r"trainer\.n_gpus_per_node=two: expected an integer"),
        (["data.train_batch_size=1.5"], r"data\.train_batch_size=1\.5: expected an integer"),
        (["actor_rollout_ref.rollout.gpu_memory_utilization=1.5"], "=1.5: expected a share of the GPU's memory"),
        (["actor_rollout_ref.rollout.gpu_memory_utilization=0"], "=0: expected a share"),
        (["actor_rollout_ref.rollout.tensor_model_parallel_size=3"], "=3: expected a divisor of the 8 GPUs"),
        (
            ["actor_rollout_ref.actor.fsdp_config.ulysses_sequence_parallel_size=3"],
            "ulysses_sequence_parallel_size=3: expected a divisor of the 8 GPUs",
        ),
        (["actor_rollout_ref.actor.fsdp_config.ulysses_sequence_parallel_size=0"], "=0: expected an integer"),
        (["data.train_batch_size=16"], r"ppo_mini_batch_size=256: expected at most data\.train_batch_size=16"),
        (
            ["trainer.n_gpus_per_node=3"],
            r"ppo_mini_batch_size=256, rollout\.n=16: expected 3 GPUs to get equally many of the 4096 answers",
        ),
    ],
)
def test_numbers_that_cannot_be_are_refused(recipe, overrides, message):
    node = [
        "trainer.n_gpus_per_node=8",
        "data.train_batch_size=256",
        "actor_rollout_ref.actor.ppo_mini_batch_size=256",
        "actor_rollout_ref.rollout.n=16",
    ]
    preflight.check_numbers(recipe(*node))
    with pytest.raises(InputError, match=message):
        preflight.check_numbers(recipe(*{word.partition("=")[0]: word for word in [*node, *overrides]}.values()))


def test_the_tower_is_no_unit_where_embeddings_are_units(recipe, tmp_path):
    units = "actor_rollout_ref.actor.fsdp_config.wrap_policy.transformer_layer_cls_to_wrap=[Qwen3VLVisionModel]"
    several = [f"actor_rollout_ref.model.path={tmp_path}", "actor_rollout_ref.actor.fsdp_config.no_shard=false"]
    config = build_config(build_tokenizer(), {"tie_word_embeddings": False})
    config.save_pretrained(tmp_path)
    preflight.check_units(recipe(*several))
    with pytest.raises(InputError, match=r"expected \[Qwen3VLTextDecoderLayer\] for .*, as size=8b has it"):
        preflight.check_units(recipe(*several, units))
    build_config(build_tokenizer(), {}).save_pretrained(tmp_path)
    preflight.check_units(recipe(*several, units))
    (tmp_path / "config.json").write_text('{"model_type": "qwen2_5_vl"}')
    with pytest.raises(InputError, match=r"config\.json: expected the configuration of a Qwen3-VL model"):
        preflight.check_units(recipe(*several, units))


def test_rollouts_on_gpus_of_their_own_divide_those(recipe):
    rollout = "actor_rollout_ref.rollout"
    apart = ["trainer.v1.trainer_mode=separate_async", f"{rollout}.nnodes=1", f"{rollout}.tensor_model_parallel_size=2"]
    preflight.check_numbers(recipe(*apart, f"{rollout}.n_gpus_per_node=2"))
    with pytest.raises(InputError, match="expected a divisor of the 3 GPUs"):
        preflight.check_numbers(recipe(*apart, f"{rollout}.n_gpus_per_node=3"))


def test_answers_are_not_cut_at_the_engine_s_context(config):
    config.data.update(max_prompt_length=128, max_response_length=192)
    config.actor_rollout_ref.rollout.max_model_len = 320
    preflight.check_lengths(config)
    config.data.max_response_length = 512
    with pytest.raises(InputError, match=r"rollout\.max_model_len=320: expected at least 640, data\.max_prompt_length"):
        preflight.check_lengths(config)
    config.actor_rollout_ref.rollout.max_model_len = None  # the model's own
    preflight.check_lengths(config)


def test_what_our_sampler_would_leave_out_is_refused(recipe):
    own = "trainer.v1.sampler.custom_sampler=null"
    for override in ("algorithm.filter_groups.enable=true", "trainer.v1.trainer_mode=separate_async"):
        with pytest.raises(InputError, match=rf"{override}: expected {own} beside it"):
            preflight.check_sampler(recipe(override))
        preflight.check_sampler(recipe(override, own))
    preflight.check_sampler(recipe("trainer.v1.trainer_mode=colocate_async"))


@pytest.mark.parametrize(
    "change",
    [
        "actor_rollout_ref.model.lora_alpha=7", "actor_rollout_ref.actor.optim.weight_decay=0.5",
        "actor_rollout_ref.actor.grad_clip=9", "actor_rollout_ref.actor.clip_ratio_low=0.1",
        "trainer.v1.trainer_mode=colocate_async", "+trainer.val_files_sha256=other",
    ],
)  # fmt: skip
def test_a_run_goes_on_with_its_own_settings_alone(recipe, tmp_path, change):
    place = f"trainer.default_local_dir={tmp_path}"
    OmegaConf.save(recipe(place), tmp_path / RECIPE)
    (tmp_path / LATEST).write_text("2")
    check_same_run(recipe(place, "trainer.total_training_steps=9", "trainer.save_freq=3"), preflight.SAME_RUN)
    with pytest.raises(InputError, match=rf"\({change.partition('=')[0].removeprefix('+')}: .* there, .* here\)"):
        check_same_run(recipe(place, change), preflight.SAME_RUN)


def test_several_nodes_need_a_cluster(config, gpus, monkeypatch):
    gpus(80_000, 80_000)
    config.trainer.nnodes = 2
    with pytest.raises(InputError, match="expected RAY_ADDRESS"):
        preflight.check_gpus(config)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    preflight.check_gpus(config)


def test_a_model_that_cannot_be_trained_is_refused(config, gpus, tmp_path):
    (tmp_path / "model").mkdir()
    save_file({"a": torch.zeros(1 << 20), "b": torch.zeros(2, 1 << 20)}, tmp_path / "model" / "model.safetensors")
    assert preflight.parameter_count(tmp_path / "model") == 3 << 20
    gpus(28, 80_000)  # 16 bytes for each of 3 Mi parameters, on two GPUs: 24 MiB each
    preflight.check_memory(config)
    gpus(26, 80_000)
    with pytest.raises(InputError, match="take a smaller model or more GPUs"):
        preflight.check_memory(config)
    for key, value in (("model.lora_rank", 8), ("actor.fsdp_config.offload_policy", True)):  # what takes less fits
        lighter = OmegaConf.merge(config, OmegaConf.from_dotlist([f"actor_rollout_ref.{key}={value}"]))
        preflight.check_memory(lighter)


def test_the_rollout_engine_fits_beside_the_training_state_that_stays(config, gpus, tmp_path):
    (tmp_path / "model").mkdir()
    save_file({"a": torch.zeros(3 << 20)}, tmp_path / "model" / "model.safetensors")
    config.trainer.n_gpus_per_node, config.actor_rollout_ref.rollout.gpu_memory_utilization = 1, 0.6
    gpus(100)
    preflight.check_memory(config)
    roles = config.actor_rollout_ref
    roles.actor.fsdp_config = {"param_offload": False, "optimizer_offload": False}
    preflight.check_memory(config)  # weights and two moments, 36 MiB, beside 60
    roles.ref.fsdp_config.param_offload = False
    with pytest.raises(InputError, match=r"gpu_memory_utilization=0\.6: expected less than 0\.52"):
        preflight.check_memory(config)
    roles.rollout.gpu_memory_utilization = 0.5
    preflight.check_memory(config)


@pytest.mark.parametrize(("engine", "device"), [("sglang", "cpu"), ("trtllm", "cuda")])
def test_an_engine_must_be_there_and_run_on_the_device(config, engine, device):
    config.actor_rollout_ref.rollout.name, config.trainer.device = engine, device
    with pytest.raises(InputError, match=f"engine={engine}: "):
        preflight.check_engine(config)


@pytest.mark.parametrize(
    ("words", "settings", "complaint"),
    [
        ({"alone": True}, {}, "alone: it is for stage 1"),
        ({"unsharded": True}, {}, r"n_gpus_per_node=2, nnodes=1: expected one GPU with .*\.unsharded=true"),
        ({"compile_blocks": True}, {"use_liger": True}, r"model\.use_liger=true: expected .*compile_blocks=false"),
        ({"loss_tokens_only": True}, {"use_fused_kernels": True}, "loss_tokens_only=true: expected"),
        ({"loss_tokens_only": True}, {"use_remove_padding": False}, "loss_tokens_only=true: expected"),
    ],
)
def test_words_of_the_engine_go_with_verls_settings(config, words, settings, complaint):
    config.actor_rollout_ref.model = {
        "use_fused_kernels": False,
        "use_remove_padding": True,
        "use_liger": False,
    } | settings
    config.actor_rollout_ref.model.override_config = words
    with pytest.raises(InputError, match=complaint):
        preflight.check_words(config)


def test_rows_are_counted_and_their_images_must_be_there(config, tmp_path):
    assert preflight.check_rows(config, "data.train_files") == 8
    write_rows(tmp_path / "more.parquet", [str(tmp_path / "image.png"), str(tmp_path / "gone.png")])
    config.data.train_files = [config.data.train_files, str(tmp_path / "more.parquet")]
    with pytest.raises(InputError, match=r'more\.parquet: row 2: field "images": expected an image that exists'):
        preflight.check_rows(config, "data.train_files")


@pytest.mark.parametrize(
    ("content", "message"), [(b"text", "expected parquet of qwen3vl_rl"), (None, "found no column images")]
)
def test_other_files_are_refused(tmp_path, content, message):
    if content:
        (tmp_path / "file").write_bytes(content)
    else:
        pq.write_table(pa.table({"prompt": ["x"]}), tmp_path / "file")
    with pytest.raises(InputError, match=message):
        preflight.check_file(tmp_path / "file")


def test_steps_must_come_from_the_rows(config):
    preflight.check_steps(config, rows=8)
    config.trainer.total_training_steps = 6
    preflight.check_steps(config, rows=8)
    config.trainer.total_training_steps = 7
    with pytest.raises(InputError, match=r"end after 6 steps; trainer\.total_epochs=4 gives enough"):
        preflight.check_steps(config, rows=8)
    with pytest.raises(InputError, match="expected at most the 3 rows"):
        preflight.check_steps(config, rows=3)


def test_a_checkpoint_is_continued_by_as_many_gpus(config, tmp_path):
    shards = tmp_path / "run" / "global_step_5" / "actor"
    shards.mkdir(parents=True)
    (shards / "fsdp_config.json").write_text(json.dumps({"world_size": 1, "FSDP_version": 2}))
    preflight.check_ranks(config)  # not yet whole
    (tmp_path / "run" / "latest_checkpointed_iteration.txt").write_text("5")
    with pytest.raises(InputError, match="written by 1 GPUs, and 2 cannot go on from it"):
        preflight.check_ranks(config)
    config.trainer.n_gpus_per_node = 1
    preflight.check_ranks(config)
    config.actor_rollout_ref.model.override_config = {"unsharded": True}
    with pytest.raises(InputError, match=r"written with shards; .*\.unsharded=false goes on from it"):
        preflight.check_ranks(config)
    (shards / "fsdp_config.json").write_text(json.dumps({"world_size": 1, "FSDP_version": 0}))
    preflight.check_ranks(config)


def test_verls_former_trainer_is_refused(recipe):
    preflight.check_trainer(recipe())
    with pytest.raises(InputError, match=r"trainer\.use_v1=false: expected true"):
        preflight.check_trainer(recipe("trainer.use_v1=false"))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["actor_rollout_ref.actor.strategy=fsdp"], "strategy=fsdp: expected fsdp2"),
        (["algorithm.adv_estimator=gae"], "expected an estimator without a critic"),
        (["+data.mm_processor_kwargs.max_pixels=20480"], "got max_pixels alone"),
    ],
    ids=lambda value: str(value)[:50],
)
def test_what_our_agent_loop_cannot_feed_is_refused(recipe, overrides, message):
    preflight.check_agent_loop(recipe())
    with pytest.raises(InputError, match=message):
        preflight.check_agent_loop(recipe(*overrides))


def test_the_loss_for_one_update_per_batch_is_refused_for_several(recipe):
    one = ["actor_rollout_ref.actor.policy_loss.loss_mode=gspo_on_policy"]
    fast = ["speed=fast"]
    preflight.check_on_policy(recipe(*fast))
    preflight.check_on_policy(recipe("algorithm.rollout_correction.bypass_mode=true"))  # verl's, for losses of verl's
    for overrides, message in (
        (one, "external_lib=qwen3vl_rl.verl_ext.fsdp_engine: expected qwen3vl_rl.verl_ext.policy_loss"),
        ([*fast, "algorithm.rollout_correction.bypass_mode=false"], "bypass_mode=False: expected True"),
        ([*fast, "actor_rollout_ref.actor.ppo_mini_batch_size=4"], "ppo_mini_batch_size=4: expected 16"),
        ([*fast, "actor_rollout_ref.actor.policy_loss.loss_mode=gspo"], "loss_mode=gspo: expected gspo_on_policy"),
    ):
        with pytest.raises(InputError, match=f"{message}, as speed=fast is for GSPO with one update per batch"):
            preflight.check_on_policy(recipe(*overrides))


def test_rows_without_what_the_reward_reads_are_named(recipe, tmp_path):
    good = {"reward_model": {"ground_truth": [1, 2, 3, 4]}, "extra_info": {"width": 9, "height": 9}}
    for change, field in (
        ({"extra_info": {"width": None, "height": 9}}, "extra_info.width"),
        ({"reward_model": {"ground_truth": [1]}}, "reward_model.ground_truth"),
    ):
        pq.write_table(pa.Table.from_pylist([good, good | change]), tmp_path / "rows.parquet")
        config = recipe(f"data.train_files={tmp_path}/rows.parquet")
        with pytest.raises(InputError, match=f'row 2: field "{field}"'):
            preflight.check_truths(config, "data.train_files")


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
def test_a_folder_keeps_to_one_run(recipe, tmp_path, override):
    folder = f"trainer.default_local_dir={tmp_path}"
    OmegaConf.save(recipe(folder), tmp_path / RECIPE)
    (tmp_path / LATEST).write_text("2")
    check_same_run(recipe(folder, "trainer.total_training_steps=99"), preflight.SAME_RUN)
    with pytest.raises(InputError, match="holds a run with another"):
        check_same_run(recipe(folder, override), preflight.SAME_RUN)


def test_a_record_without_its_checkpoint_is_named(recipe, tmp_path):
    (tmp_path / LATEST).write_text("2")
    with pytest.raises(InputError, match="expected a whole checkpoint in global_step_2"):
        preflight.check_ranks(recipe(f"trainer.default_local_dir={tmp_path}"))

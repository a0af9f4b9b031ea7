import pytest

from benchmarks import grpo_step
from qwen3vl_rl.errors import InputError
from qwen3vl_rl.models.families.qwen3_vl import QWEN3_VL

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    "change",
    [
        "model.target_modules=[q_proj]",
        "actor.fsdp_config.freeze_vision=true",
        "actor.fsdp_config.offload_policy=true",
        "actor.fsdp_config.model_dtype=bf16",
        "actor.use_dynamic_bsz=false",
        "actor.optim.optimizer=AdamW8bit",
    ],
)
def test_what_the_planner_does_not_know_is_refused(read, change):
    with pytest.raises(InputError, match=rf"actor_rollout_ref\.{change.partition('=')[0]}=.*: expected .* knows"):
        read("size=2b", "tuning=lora" if "target_modules" in change else "tuning=full", f"actor_rollout_ref.{change}")


def test_a_published_size_is_not_looked_for_in_the_folder_at_hand(read, tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "preprocessor_config.json").write_text('{"size": {"shortest_edge": 784, "longest_edge": 50176}}')
    monkeypatch.chdir(tmp_path)
    found = read("size=2b")
    assert found.shape == QWEN3_VL.sizes["2b"]
    assert found.image_tokens == QWEN3_VL.picture_tokens(640, 480) == 300


def test_a_plan_reads_the_recipe(read, run_8b):
    run = run_8b
    assert (run.gpus, run.prompts, run.answers_per_prompt, run.tokens_per_micro_batch) == (8, 256, 16, 25600)
    assert run.shape == QWEN3_VL.sizes["8b"]
    assert run.param_offload and run.optimizer_offload and run.ref_offload and run.reference and run.old_log_probs
    changed = read("size=2b", "hardware=gpu1", "speed=fast")
    assert not (changed.param_offload or changed.optimizer_offload or changed.ref_offload or changed.old_log_probs)
    assert changed.compiled and changed.gathered_at_once and not (run_8b.compiled or run_8b.gathered_at_once)
    assert changed.rollout_memory_share == 0.6
    each = read("size=2b", "hardware=gpu1", *grpo_step.CHANGES["prompt-per-answer"])
    assert changed.share_prompts and not each.share_prompts
    assert changed.trained_tokens < 0.3 * each.trained_tokens
    assert changed.forward_flops < 0.35 * each.forward_flops


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("size=9b", 'size: expected one of .*, got "9b"'),
        ("size=tiny", "size=tiny: expected 2b, .*, or a model.path that is a folder"),
        ("trainer.nods=2", r"^trainer\.nods: expected a key of the recipe, such as trainer\.nnodes, .*; add one with "),
        ("siz=8b", r"^siz: expected a key of the recipe, such as size; add one with \+siz$"),
        ("data.mm_processor_kwargs.max_patches=6", r"such as data\.mm_processor_kwargs; add one with \+data\.mm_pro"),
        ("zzz=1", r"^zzz: expected a key of the recipe; add one with \+zzz$"),
        ("data.seed=[a", r"^data\.seed=\[a: expected KEY=VALUE \(no viable alternative at input '\[a'\)$"),
        ("+data.seed=1", "^recipe: Could not append to config"),
    ],
)
def test_what_does_not_compose_is_bad_input(read, override, message):
    with pytest.raises(InputError, match=message) as error:
        read(override)
    assert "\n" not in str(error.value)

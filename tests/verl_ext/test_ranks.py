"""An update of stage 2 has the same losses and gradients on two ranks as on one, and with shared prompts as without."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from examples.starter.build import build_checkpoint
from examples.starter.internvl import build_checkpoint as build_internvl

pytestmark = pytest.mark.engine
ROOT = Path(__file__).parents[2]
TOLERANCE = 1e-5
ROUNDING = 1e-11  # of gradients that are 0: a bias of the keys of InternViT changes no attention
# There are four prompts with four, three, four and five answers; the second has no image. A rank takes every `ranks`-th
# prompt. Writes its losses and the full gradient of every parameter.
UPDATE = """
import sys
from qwen3vl_rl.training import cpu
cpu.activate()
from functools import partial
import torch, torch.distributed as dist
from torch.distributed.tensor import DTensor
from verl.utils.config import omega_conf_to_dataclass
from verl.utils.tensordict_utils import get_tensordict
from verl.workers.utils.losses import ppo_loss
from qwen3vl_rl.verl_ext.fsdp_engine import GroundingEngine
from qwen3vl_rl.plan import compose_recipe

folder, out, rank, ranks, *overrides = sys.argv[1:]
rank, ranks = int(rank), int(ranks)
dist.init_process_group("gloo", init_method=f"file://{out}/ranks", rank=rank, world_size=ranks)
size = "internvl_tiny" if "internvl" in folder else "tiny"
words = ["hardware=cpu", f"size={size}", f"actor_rollout_ref.model.path={folder}", "actor_rollout_ref.rollout.n=4"]
recipe = compose_recipe(words + overrides).actor_rollout_ref
model, actor = omega_conf_to_dataclass(recipe.model), omega_conf_to_dataclass(recipe.actor)
actor.engine.use_remove_padding = model.use_remove_padding
torch.manual_seed(0)  # of the adapters' first values
engine = GroundingEngine(model, actor.engine, actor.optim, actor.checkpoint)
engine.initialize()
is_internvl = model.hf_config.model_type == "internvl"

samples, images, draw = {}, [], torch.Generator().manual_seed(0)
for number, question in enumerate([0] * 4 + [1] * 3 + [2] * 4 + [3] * 5):
    if number in (0, 4, 7, 11):
        prompt = torch.randint(20, 300, (4 + number,), generator=draw)
        shape, tokens = ((1, 3, 112, 112), 16) if is_internvl else ((80, 3 * 2 * 16 * 16), 20)
        image = {"pixel_values": torch.randn(shape, generator=draw)}
        if question == 1:
            image = {}
        else:
            prompt = torch.cat([torch.full((tokens,), model.hf_config.image_token_id), prompt])
            image |= {} if is_internvl else {"image_grid_thw": torch.tensor([(1, 8, 10)])}
    answer = torch.randint(20, 300, (1 + number % 7,), generator=draw)
    old_log_probs = -6 - torch.rand(len(answer), generator=draw)
    advantage = torch.randn((), generator=draw)
    places = torch.arange(len(prompt) + len(answer))
    if question % ranks == rank:
        images.append(dict(image))
        for name, value in {
            "input_ids": torch.cat([prompt, answer]),
            "position_ids": places if is_internvl else places.expand(4, -1),
            "prompts": prompt,
            "responses": answer,
            "response_mask": torch.ones_like(answer),
            "loss_mask": torch.ones_like(answer),
            "old_log_probs": old_log_probs,
            "ref_log_prob": old_log_probs - 0.1,
            "advantages": advantage.expand(len(answer)),
        }.items():
            samples.setdefault(name, []).append(value)
fields = {name: torch.nested.as_nested_tensor(values, layout=torch.jagged) for name, values in samples.items()}
settings = {"global_batch_size": 16, "temperature": 0.7, "use_dynamic_bsz": True, "max_token_len_per_gpu": 60}
batch = get_tensordict(fields | {"multi_modal_inputs": images}, settings | {"calculate_entropy": True})
if model.lora_rank:  # the reference is the actor without adapters
    with engine.eval_mode(), engine.disable_adapter():
        engine.infer_batch(batch.clone())
with engine.train_mode():
    metrics = engine.train_batch(batch, partial(ppo_loss, config=actor))["metrics"]
    gradients = {name: parameter.grad for name, parameter in engine.module.named_parameters()}
    whole = {name: x.full_tensor() if isinstance(x, DTensor) else x for name, x in gradients.items()}
losses = {name: float(metrics[name].aggregate()) for name in ("actor/pg_loss", "kl_loss", "actor/entropy_loss")}
torch.save({"losses": losses, "micro_batches": len(metrics["kl_coef"]), "gradients": whole}, f"{out}/{rank}.pt")
dist.destroy_process_group()
"""


def update(checkpoint: Path, out: Path, ranks: int, *overrides: str) -> list[dict]:
    """What each of `ranks` ranks writes about its update."""
    out.mkdir()
    command = [sys.executable, "-c", UPDATE, str(checkpoint), str(out)]
    runs = [subprocess.Popen([*command, str(rank), str(ranks), *overrides], cwd=ROOT) for rank in range(ranks)]
    assert [run.wait() for run in runs] == [0] * ranks
    return [torch.load(out / f"{rank}.pt") for rank in range(ranks)]


def check_gradients(found: dict, expected: dict) -> None:
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert gradient.norm() > 0, name
        assert (found[name] - gradient).norm() <= TOLERANCE * gradient.norm() + ROUNDING, name


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("starter")
    build_checkpoint(folder)
    return folder


@pytest.fixture(scope="module")
def alone(checkpoint, tmp_path_factory) -> dict:
    [found] = update(checkpoint, tmp_path_factory.mktemp("alone") / "ranks", 1)
    return found


AT_ONCE = "actor_rollout_ref.actor.fsdp_config.wrap_policy.transformer_layer_cls_to_wrap=[Qwen3VLVisionModel]"


@pytest.mark.parametrize("gathered", [[], [AT_ONCE]], ids=["by layer", "at once"])
def test_two_ranks_update_as_one(gathered, checkpoint, alone, tmp_path):
    found = update(checkpoint, tmp_path / "ranks", 2, *gathered)
    assert alone["micro_batches"] > found[0]["micro_batches"] > 1  # two ranks split the batch
    for name, loss in alone["losses"].items():  # verl reports the ranks' mean
        assert sum(rank["losses"][name] for rank in found) / 2 == pytest.approx(loss, rel=TOLERANCE), name
    for rank in found:
        check_gradients(rank["gradients"], alone["gradients"])


CHECKPOINTED = "actor_rollout_ref.model.enable_gradient_checkpointing=true"


@pytest.mark.long
@pytest.mark.parametrize(("ranks", "how"), [(1, []), (1, [CHECKPOINTED]), (2, [])], ids=["one", "checkpointed", "two"])
def test_an_update_with_shared_prompts_equals_one_without(ranks, how, checkpoint, alone, tmp_path):
    share = "actor_rollout_ref.actor.fsdp_config.share_prompts"
    plain = update(checkpoint, tmp_path / "plain", ranks, f"{share}=false", *how)
    shared = update(checkpoint, tmp_path / "shared", ranks, *how) if (ranks, how) != (1, []) else [alone]
    for found, expected in zip(shared, plain, strict=True):
        assert found["micro_batches"] < expected["micro_batches"]
        for name, loss in expected["losses"].items():
            assert found["losses"][name] == pytest.approx(loss, rel=TOLERANCE), name
        check_gradients(found["gradients"], expected["gradients"])


@pytest.mark.long
@pytest.mark.parametrize("offload", ["false", "true"])
def test_adapters_have_their_gradients_after_a_pass_of_the_reference(offload, checkpoint, tmp_path):
    """If FSDP keeps gathered weights, peft's own way of disabling adapters removes their gradients."""
    fsdp = "actor_rollout_ref.actor.fsdp_config"
    kept = [f"{fsdp}.reshard_after_forward=false", f"{fsdp}.param_offload={offload}", AT_ONCE]
    [plain] = update(checkpoint, tmp_path / "plain", 1, "tuning=lora", f"{fsdp}.no_shard=true")
    [found] = update(checkpoint, tmp_path / "kept", 1, "tuning=lora", *kept)
    ups = [name for name in plain["gradients"] if "lora_B" in name]
    assert len(ups) > 30
    for name in ups:
        expected, gradient = plain["gradients"][name], found["gradients"][name]
        assert expected.norm() > 0, name
        assert (gradient - expected).norm() <= TOLERANCE * expected.norm(), name


@pytest.mark.long
def test_an_internvl_updates_alike_on_two_ranks_with_checkpointing_and_with_shared_prompts(internvl_folder, tmp_path):
    share = "actor_rollout_ref.actor.fsdp_config.share_prompts=false"
    [plain] = update(internvl_folder, tmp_path / "plain", 1, share)
    ways = {"two": update(internvl_folder, tmp_path / "two", 2)}
    ways["checkpointed"] = update(internvl_folder, tmp_path / "checkpointed", 1, CHECKPOINTED)
    for found in ways.values():
        for name, loss in plain["losses"].items():
            assert sum(rank["losses"][name] for rank in found) / len(found) == pytest.approx(loss, rel=TOLERANCE), name
        for rank in found:
            check_gradients(rank["gradients"], plain["gradients"])


@pytest.mark.long
def test_adapters_of_an_internvl_have_the_same_gradients_with_and_without_shards(internvl_folder, tmp_path):
    fsdp = "actor_rollout_ref.actor.fsdp_config"
    [plain] = update(internvl_folder, tmp_path / "plain", 1, "tuning=lora", f"{fsdp}.no_shard=true")
    [sharded] = update(internvl_folder, tmp_path / "sharded", 1, "tuning=lora", CHECKPOINTED)
    ups = {name: gradient for name, gradient in plain["gradients"].items() if "lora_B" in name}
    assert not any("vision_tower" in name for name in ups)
    check_gradients({name: sharded["gradients"][name] for name in ups}, ups)


@pytest.fixture(scope="module")
def internvl_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("internvl") / "internvl"
    build_internvl(folder)
    return folder

"""An update of stage 2 on two ranks is that of one: the same losses, and the same gradient of every parameter."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from examples.starter.build import build_checkpoint

pytestmark = pytest.mark.engine
ROOT = Path(__file__).parents[2]
# Of four prompts with an image and four answers each, a rank takes every `ranks`-th. Writes its losses, and the norm of
# every parameter's whole gradient.
UPDATE = """
import sys
from qwen3vl_rl.training import cpu
cpu.activate()
import json
from functools import partial
import torch, torch.distributed as dist
from torch.distributed.tensor import DTensor
from verl.utils.config import omega_conf_to_dataclass
from verl.utils.tensordict_utils import get_tensordict
from verl.workers.utils.losses import ppo_loss
from qwen3vl_rl.verl_ext.fsdp_engine import Qwen3VLEngine
from qwen3vl_rl.plan import compose_recipe

folder, out, rank, ranks, *overrides = sys.argv[1:]
rank, ranks = int(rank), int(ranks)
dist.init_process_group("gloo", init_method=f"file://{out}/ranks", rank=rank, world_size=ranks)
words = ["hardware=cpu", "size=tiny", f"actor_rollout_ref.model.path={folder}", "actor_rollout_ref.rollout.n=4"]
recipe = compose_recipe(words + overrides).actor_rollout_ref
model, actor = omega_conf_to_dataclass(recipe.model), omega_conf_to_dataclass(recipe.actor)
actor.engine.use_remove_padding = model.use_remove_padding
engine = Qwen3VLEngine(model, actor.engine, actor.optim, actor.checkpoint)
engine.initialize()

samples, images, draw = {}, [], torch.Generator().manual_seed(0)
for number in range(4 * 4):
    if number % 4 == 0:
        text = torch.randint(20, 300, (4 + number,), generator=draw)
        prompt = torch.cat([torch.full((20,), model.hf_config.image_token_id), text])
        image = {"pixel_values": torch.randn(80, 3 * 2 * 16 * 16, generator=draw)}
    answer = torch.randint(20, 300, (3 + number % 5,), generator=draw)
    old_log_probs = -6 - torch.rand(len(answer), generator=draw)
    advantage = torch.randn((), generator=draw)
    if number // 4 % ranks == rank:
        images.append(image | {"image_grid_thw": torch.tensor([(1, 8, 10)])})
        for name, value in {
            "input_ids": torch.cat([prompt, answer]),
            "position_ids": torch.arange(len(prompt) + len(answer)).expand(4, -1),
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
settings = {"global_batch_size": 16, "temperature": 0.7, "use_dynamic_bsz": True, "max_token_len_per_gpu": 200}
batch = get_tensordict(fields | {"multi_modal_inputs": images}, settings | {"calculate_entropy": True})
with engine.train_mode():
    metrics = engine.train_batch(batch, partial(ppo_loss, config=actor))["metrics"]
    gradients = {name: parameter.grad for name, parameter in engine.module.named_parameters()}
    whole = {name: x.full_tensor() if isinstance(x, DTensor) else x for name, x in gradients.items()}
losses = {name: metrics[name].aggregate() for name in ("actor/pg_loss", "kl_loss", "actor/entropy_loss")}
norms = {name: x.norm().item() for name, x in whole.items()}
with open(f"{out}/{rank}.json", "w") as file:
    json.dump({"losses": losses, "micro_batches": len(metrics["kl_coef"]), "gradients": norms}, file)
dist.destroy_process_group()
"""


def update(checkpoint: Path, out: Path, ranks: int, *overrides: str) -> list[dict]:
    """What each of `ranks` tells of its update."""
    out.mkdir()
    command = [sys.executable, "-c", UPDATE, str(checkpoint), str(out)]
    runs = [subprocess.Popen([*command, str(rank), str(ranks), *overrides], cwd=ROOT) for rank in range(ranks)]
    assert [run.wait() for run in runs] == [0] * ranks
    return [json.loads((out / f"{rank}.json").read_text()) for rank in range(ranks)]


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
def test_two_ranks_update_as_one_does(gathered, checkpoint, alone, tmp_path):
    found = update(checkpoint, tmp_path / "ranks", 2, *gathered)
    assert alone["micro_batches"] > found[0]["micro_batches"] > 1  # they see other parts of the batch, by other parts
    for name, loss in alone["losses"].items():  # verl reports the ranks' mean
        assert sum(rank["losses"][name] for rank in found) / 2 == pytest.approx(loss, rel=1e-4), name
    assert min(alone["gradients"].values()) > 0
    for rank in found:
        assert rank["gradients"] == pytest.approx(alone["gradients"], rel=1e-3)

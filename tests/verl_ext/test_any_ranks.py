"""A checkpoint of two ranks resumes on one and vice versa, with the same losses as without a change of ranks."""

import shutil
from pathlib import Path

import pytest
import torch

from qwen3vl_rl.training.metrics import read_metrics
from qwen3vl_rl.training.run_folder import LATEST
from qwen3vl_rl.verl_ext.any_ranks import _cut
from sft.trainer import with_batches_of

STEPS, TOLERANCE = 4, 1e-5


def test_a_part_is_cut_out_of_pieces_of_any_size():
    whole = torch.arange(10)
    for sizes in ([10], [5, 5], [4, 4, 2], [3, 3, 3, 1], [6, 0, 4]):
        pieces = list(whole.split(sizes))
        for size in (10, 5, 4, 3, 2):  # of a part
            parts = [_cut(pieces, 0, begin, min(size, 10 - begin)) for begin in range(0, 10, size)]
            assert torch.cat(parts).equal(whole)
        assert _cut(pieces, 0, 10, 0).shape == (0,)


def test_samples_of_a_data_loader_are_those_of_all_ranks_together():
    main = {"_sampler_iter_state": {"samples_yielded": 24}, "_sampler_iter_yielded": 3, "_num_workers": 1}
    found = with_batches_of({"_snapshot": {"_main_snapshot": main, "_snapshot_step": 3}}, size=16)["_snapshot"]
    assert found["_main_snapshot"] == main | {"_sampler_iter_state": {"samples_yielded": 48}}


def losses(folder: Path) -> dict[int, float]:
    return {step: row["train/loss"] for step, row in read_metrics(folder).items()}


@pytest.mark.long
@pytest.mark.engine
def test_losses_equal_those_of_a_run_on_the_same_ranks(train, sft_command, tmp_path):
    def run(name: str, ranks: int, moved: tuple[str, int] | None = None, *overrides: str) -> dict[int, float]:
        folder = tmp_path / name
        if moved:
            earlier, step = tmp_path / moved[0], moved[1]
            shutil.copytree(earlier / f"global_step_{step}", folder / f"global_step_{step}")
            shutil.copyfile(earlier / "recipe.yaml", folder / "recipe.yaml")
            (folder / LATEST).write_text(str(step))
        changes = [f"trainer.total_training_steps={STEPS}", "trainer.save_freq=1", "trainer.max_ckpt_to_keep=null"]
        train(sft_command(folder, *changes, f"trainer.n_gpus_per_node={ranks}", *overrides))
        return losses(folder)

    whole = run("two", 2)
    one = run("one", 1, ("two", 2))
    again = run("again", 2, ("one", 3), "engine.fsdp_size=1")
    plain = run("plain", 1, ("one", 3), "engine.no_shard=true")
    copies = run("copies", 2, ("two", 3), "engine.fsdp_size=1")  # two copies instead of two shards
    assert list(whole) == [1, 2, 3, 4] and list(one) == [3, 4]
    assert list(again) == list(plain) == list(copies) == [4]
    for found in (one, again, plain, copies):
        for step, loss in found.items():
            assert loss == pytest.approx(whole[step], abs=TOLERANCE), step

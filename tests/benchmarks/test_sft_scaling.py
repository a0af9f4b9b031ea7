"""Comparison of runs on different numbers of GPUs."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from benchmarks.sft_scaling import compare, recipe

CONFIG = Path(__file__).parents[2] / "sft" / "config"


def test_steps_are_compared_over_all_pairs_and_losses_step_by_step():
    runs = [
        {"gpus": 1, "steps": [4.0, 6.0], "losses": [2.0, 1.0]},
        {"gpus": 2, "steps": [2.0, 2.0], "losses": [2.0, 1.1]},
    ]
    compare(runs)
    assert runs[1]["speed_relative_to_1"] == {"median": 2.5, "min": 2.0, "max": 3.0}
    assert runs[1]["loss_difference_max"] == pytest.approx(0.1)
    assert "speed_relative_to_1" not in runs[0]


def test_a_failed_run_is_not_compared():
    runs = [{"gpus": 1, "error": "x", "losses": []}, {"gpus": 2, "steps": [1.0], "losses": [1.0]}]
    compare(runs)
    assert "speed_relative_to_1" not in runs[1]


@pytest.mark.parametrize("gpus", [1, 2])
def test_only_the_sharding_differs_with_the_number_of_gpus(gpus, monkeypatch):
    monkeypatch.setattr("benchmarks.sft_scaling.has_gpu", lambda: True)
    with initialize_config_dir(str(CONFIG), version_base=None):
        config = compose("sft", recipe("2b", gpus, 32, 25, Path("model"), Path("rows"), Path("out")))
    assert config.trainer.n_gpus_per_node == gpus and config.data.train_batch_size == 32
    assert config.engine.no_shard == (gpus == 1)

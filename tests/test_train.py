"""The trend that stage 2 prints of its step rewards."""

import numpy as np
import pytest

from qwen3vl_rl.train import trend


def test_a_line_has_its_slope_without_doubt():
    assert trend({step: 2.0 + 0.5 * step for step in range(1, 9)}) == pytest.approx((0.5, 0.5, 0.5))


def test_the_interval_covers_the_slope_of_noisy_rewards():
    rng = np.random.default_rng(0)
    slope, low, high = trend({step: 0.1 * step + rng.normal(0, 0.2) for step in range(40)})
    assert low < 0.1 < high
    assert low < slope < high
    assert high - low < 0.05


def test_two_steps_have_no_trend():
    assert trend({1: 0.1, 2: 0.9}) is None

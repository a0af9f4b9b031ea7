"""Samples of every world, drawn once per test run."""

import itertools

import pytest

from qwen3vl_rl.data.refshapes import WORLDS, Referral, World, referrals


@pytest.fixture(scope="package", params=WORLDS)
def world(request) -> World:
    return WORLDS[request.param]


@pytest.fixture(scope="package")
def drawn(world) -> list[Referral]:
    """2000 samples, a fifth of them amodal."""
    return list(itertools.islice(referrals("test", world.kinds, 0.2, world), 2000))

from qwen3vl_rl.training.planner.constants import read_constants


def test_every_constant_has_a_source():
    _, sources = read_constants()
    assert all(source.startswith(("measured: ", "assumed: ")) for source in sources.values())

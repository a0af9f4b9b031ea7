from qwen3vl_rl.training.planner.constants import read_constants


def test_every_shipped_constant_says_where_it_is_from():
    _, sources = read_constants()
    assert all(source.startswith(("measured: ", "assumed: ")) for source in sources.values())

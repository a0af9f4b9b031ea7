"""The paper's numbers."""

import pytest

from qwen3vl_rl.evaluation.scoring import published


def test_every_published_row_has_its_nine_numbers():
    assert {len(accs) for accs in published.table().values()} == {len(published.splits()) + 1}
    for accs in published.table().values():
        assert sum(accs[:-1]) / 8 == pytest.approx(accs[-1], abs=0.051)

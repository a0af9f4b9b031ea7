"""The published numbers."""

import pytest

from qwen3vl_rl.evaluation.scoring import published


def test_every_published_row_has_its_nine_numbers():
    assert {len(accs) for accs in published.table().values()} == {len(published.splits()) + 1}
    for accs in (accs for model, accs in published.table().items() if model != published.CARD):
        assert sum(accs[:-1]) / 8 == pytest.approx(accs[-1], abs=0.051)


def test_both_rows_of_egm_8b_are_distinguished():
    paper, card = (published.table()[name] for name in ("EGM-8B", published.CARD))
    assert [name for name in published.table() if "EGM-8B" in name] == ["EGM-8B", published.CARD]
    assert [b - a for a, b in zip(paper, card, strict=True)] == pytest.approx([0, 0.6, 0, 0.4, 0.2, 0.4, 0.4, 0.2, 0])
    assert sum(card[:-1]) / 8 == pytest.approx(91.65)

"""One table as text of several formats."""

from qwen3vl_rl.evaluation.reporting import table_formats as formats


def test_latex_writes_signs_as_math():
    assert r"p $<$ 0.001" in formats.latex(formats.Table("t", ("a", "b"), [("x", "p < 0.001")]))

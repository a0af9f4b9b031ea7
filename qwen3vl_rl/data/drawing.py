"""Small drawings in SVG for HTML pages. The same values give the same text."""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup


@dataclass(frozen=True, slots=True)
class Drawing:
    title: str
    svg: Markup


def line(x: Sequence[float], y: Sequence[float], color: str, xlabel: str = "step") -> Markup:
    """One line over `x`."""
    return svg(lambda axes: axes.plot(x, y, color=color, linewidth=1.3), xlabel)


def svg(draw: Callable, xlabel: str) -> Markup:
    """What `draw` puts on matplotlib axes."""
    import matplotlib  # takes a second to import
    from matplotlib.figure import Figure

    style = {"svg.fonttype": "none", "svg.hashsalt": "egm", "font.size": 8, "axes.spines.top": False}
    with matplotlib.rc_context(style | {"axes.spines.right": False, "font.family": "sans-serif"}):
        figure = Figure(figsize=(3.6, 1.9), layout="constrained")
        axes = figure.add_subplot()
        draw(axes)
        axes.set_xlabel(xlabel)
        axes.grid(axis="y", color="#e4e1da", linewidth=0.6)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    return Markup(text[text.index("<svg") :])

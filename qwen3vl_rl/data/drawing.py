"""Small SVG drawings for HTML pages. The same values always give the same SVG text."""

import io
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from markupsafe import Markup


@dataclass(frozen=True, slots=True)
class Drawing:
    title: str
    svg: Markup


def lines(metrics: Mapping[int, Mapping[str, float]], titles: Mapping[str, str], color: str) -> Iterator[Drawing]:
    """Yield a line plot of each metric in `titles` (name: title) that at least two steps have. `metrics`: by step."""
    for name, title in titles.items():
        points = [(step, row[name]) for step, row in sorted(metrics.items()) if name in row]
        if len(points) > 1:
            steps, values = zip(*points, strict=True)
            drawn = svg(lambda axes, x=steps, y=values: axes.plot(x, y, color=color, linewidth=1.3), "step")
            yield Drawing(title, drawn)


def svg(draw: Callable, xlabel: str) -> Markup:
    """The SVG of a figure after `draw(axes)` has drawn on its matplotlib axes."""
    import matplotlib  # imported here because it takes a second
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

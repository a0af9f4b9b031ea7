import matplotlib.pyplot as plt

from benchmarks import plots


def test_a_bar_has_the_phases_of_its_step():
    figure = plots.draw(plots.FOLDER)
    bars = {label.get_text(): 0.0 for label in figure.axes[1].get_yticklabels()}
    assert list(bars) == list(plots.STEPS.values())
    for bar in figure.axes[1].patches:
        bars[list(bars)[round(bar.get_y() + bar.get_height() / 2)]] += bar.get_width()
    assert min(bars.values()) > 0
    assert len(figure.axes[0].lines) == len(plots.SERVED) + len(plots.PAPER)
    plt.close(figure)

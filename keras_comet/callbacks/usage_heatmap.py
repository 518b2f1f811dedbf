"""A picture of the expert usage of several gates."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from keras_comet.analysis.figures import make_figure


def usage_heatmap(usage: Mapping[str, np.ndarray]) -> Any:
    """Draws expert usage, a row for each task and a column for each expert.

    Uses Matplotlib's objects and not pyplot, so that no figure, backend or
    setting of the program is touched.

    Args:
        usage: dict from task to shares `(num_experts,)`. Tasks may have
            different numbers of experts; cells they do not have stay empty.

    Returns:
        A `matplotlib.figure.Figure`.
    """
    from matplotlib.ticker import MaxNLocator

    num_experts = max(len(shares) for shares in usage.values())
    cells = np.full((len(usage), num_experts), np.nan)
    for row, shares in zip(cells, usage.values(), strict=True):
        row[: len(shares)] = shares
    figure = make_figure(3.0 + 0.3 * num_experts, 1.2 + 0.4 * len(usage))
    axes = figure.add_subplot()
    # From 0, so that an expert which nobody uses is always the darkest.
    picture = axes.imshow(cells, aspect="auto", vmin=0.0)
    axes.set_xlabel("expert")
    axes.set_ylabel("task")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_yticks(range(len(usage)), list(usage))
    figure.colorbar(picture, ax=axes, label="expert usage")
    return figure


def to_image(figure: Any) -> np.ndarray:
    """Renders a figure.

    Args:
        figure: `matplotlib.figure.Figure`.

    Returns:
        A uint8 array `(height, width, 4)`, red, green, blue and alpha.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.array(canvas.buffer_rgba())

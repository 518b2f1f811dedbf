"""Figures without pyplot, which would touch settings of the program."""

from typing import Any

# Inches. A picture of very much gets finer, not larger.
_LARGEST = 30.0


def make_figure(width: float, height: float) -> Any:
    """Makes an empty figure.

    Args:
        width: float. Inches.
        height: float. Inches.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ImportError: If Matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "Plots need matplotlib, which cannot be imported. Install it "
            "with `pip install 'keras-comet[tensorboard]'`."
        ) from error
    size = (min(width, _LARGEST), min(height, _LARGEST))
    return Figure(figsize=size, layout="constrained")

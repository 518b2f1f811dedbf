"""Plot of the expected best of m trials, one line for each arm."""

from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_comet.analysis.figures import make_figure
from keras_comet.tuning.expected_best import expected_best
from keras_comet.tuning.expected_best import resample_expected_best

_BAND = (5.0, 95.0)  # percentiles


def plot_expected_best(
    trials: Mapping[
        str,
        tuple[Sequence[float] | np.ndarray, Sequence[float] | np.ndarray],
    ],
) -> Any:
    """Draws `expected_best` over the number of trials, with bands.

    Bands hold nine tenths of 1,000 bootstrap samples of the trials. An arm
    with a single trial is a line across all budgets, as a setting that is not
    tuned costs one trial.

    Args:
        trials: dict from the name of an arm, for example a gate, to its
            validation losses and test losses.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ValueError: If there are no arms, or as `expected_best`.
        ImportError: If Matplotlib is not installed.

    Example:

    ```python
    from keras_comet import tuning

    figure = tuning.plot_expected_best(
        {
            "top_k": ([0.3, 0.1, 0.2], [0.5, 0.2, 0.2]),
            "comet": ([0.2, 0.2, 0.1], [0.3, 0.2, 0.1]),
        }
    )
    figure.axes[0].get_xlabel()  # "trials"
    ```
    """
    if not trials:
        raise ValueError(
            "Expected the trials of at least one arm. Received: none."
        )
    figure = make_figure(7.0, 4.5)
    axes = figure.add_subplot()
    for name, (validation, test) in trials.items():
        means = expected_best(validation, test)
        if len(means) == 1:
            axes.axhline(means[0], label=name, linestyle="--", color="gray")
            continue
        budgets = np.arange(1, len(means) + 1)
        low, high = np.percentile(
            resample_expected_best(validation, test), _BAND, axis=0
        )
        (line,) = axes.plot(budgets, means, label=name)
        axes.fill_between(
            budgets, low, high, color=line.get_color(), alpha=0.15, linewidth=0
        )
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("{x:g}")
    axes.set_xlabel("trials")
    axes.set_ylabel("expected test loss of the best of them")
    figure.legend(loc="outside right upper", fontsize="small")
    return figure

"""How many trials less one arm needs than another."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from keras_comet.tuning import expected_best
from keras_comet.tuning.expected_best import resample_expected_best

Losses = tuple[Sequence[float], Sequence[float]]
_BAND = (5.0, 95.0)  # percentiles


def budget_ratio(off: Losses, on: Losses) -> tuple[float, float, float]:
    """Computes the ratio of budgets that reach the same expected test loss.

    The loss is the one that both reach: the larger of the two at their full
    numbers of trials. The budgets are the smallest numbers of trials that
    reach it, interpolated. With N trials the ratio lies within 1 / N and N.

    Args:
        off: validation and test losses of the trials of the plain arm.
        on: the same of the other one, trial by trial.

    Returns:
        The ratio `m_off / m_on`, and the ends of the middle nine tenths of
        its bootstrap samples, which draw the trials of both together.
    """
    samples = [
        _ratio(*curves)
        for curves in zip(
            resample_expected_best(*off),
            resample_expected_best(*on),
            strict=True,
        )
    ]
    low, high = np.percentile(samples, _BAND)
    ratio = _ratio(expected_best(*off), expected_best(*on))
    return ratio, float(low), float(high)


def _ratio(off: np.ndarray, on: np.ndarray) -> float:
    loss = max(off[-1], on[-1])
    return budget_to_reach(off, loss) / budget_to_reach(on, loss)


def budget_to_reach(curve: np.ndarray, loss: float) -> float:
    """Computes the number of trials whose expected best reaches a loss.

    Args:
        curve: float array, what `expected_best` returns.
        loss: float, not below the last value.

    Returns:
        The number of trials, at least 1, between whole ones by a line.
    """
    first = int(np.argmax(curve <= loss))
    if first == 0:
        return 1.0
    before, after = curve[first - 1], curve[first]
    return float(first + (before - loss) / (before - after))

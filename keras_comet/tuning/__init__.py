"""Tuning budgets: what a number of trials is expected to reach."""

from keras_comet.tuning.expected_best import expected_best
from keras_comet.tuning.plot_expected_best import plot_expected_best

__all__ = ["expected_best", "plot_expected_best"]

"""A mean over batches, and how sure it is."""

from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

import numpy as np


class Estimate(NamedTuple):
    """A mean over batches and its standard error.

    Args:
        mean: float.
        standard_error: float.
    """

    mean: float
    standard_error: float

    @classmethod
    def of(cls, values: Any, sizes: Sequence[float]) -> "Estimate":
        """Averages values of batches, each as often as it is large.

        Args:
            values: floats, one for each batch.
            sizes: list of float, the number of rows of each batch, or the
                sum of their weights.

        Returns:
            `m = sum_b s_b v_b` for the shares `s_b` of the sizes, and
            `sqrt(B / (B - 1) sum_b s_b^2 (v_b - m)^2)` for B batches, which
            is the usual standard error when the batches are equally large.
        """
        shares = np.divide(sizes, np.sum(sizes))
        mean = float(np.sum(shares * values))
        squares = np.sum(np.square(shares * (np.asarray(values) - mean)))
        factor = len(values) / (len(values) - 1)
        return cls(mean, float(np.sqrt(factor * squares)))

    def __str__(self) -> str:
        return f"{self.mean:+.4g} ± {self.standard_error:.2g}"

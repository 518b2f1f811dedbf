"""Entropy of shares, relative to that of even ones."""

import math
from typing import Any

import tensorflow as tf


def normalized_entropy(shares: Any) -> tf.Tensor:
    """Returns the entropy of shares over its maximum.

    Args:
        shares: float tensor `(n,)`, nonnegative, of sum one.

    Returns:
        A scalar: 1 for even shares, and for a single one, 0 if one has
        everything. NaN if the shares are NaN.
    """
    shares = tf.convert_to_tensor(shares)
    if shares.shape[-1] == 1:
        return shares[0]
    # 0 log 0 = 0
    entropy = -tf.reduce_sum(tf.math.xlogy(shares, shares))
    return entropy / math.log(shares.shape[-1])

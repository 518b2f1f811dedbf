"""What each leaf of each tree weighs, without a logarithm."""

from typing import Any

import tensorflow as tf

# A leaf reached with less counts as not reached: 1e-30 is far below what
# changes a float32 mixture, and its reciprocal, which the gradient of the
# normalization contains, is still far from overflow.
_UNREACHED = 1e-30


def leaf_weights(
    leaf_logits: tf.Tensor, leaf_probabilities: tf.Tensor
) -> tf.Tensor:
    """Numerators of one softmax over the leaves of all trees.

    `w_je = v_je exp(a_je - max over leaves with v > 0)`. Divided by their sum
    over all leaves they are `softmax(a + log v)`. A leaf that is not reached
    gets an exact zero and a finite gradient, and a large logit on it is
    harmless. The maximum cancels out of the quotient: it has no gradient.

    Reference:
    - [Ibrahim et al., 2023](https://arxiv.org/abs/2306.02824), Eq. (4); the
      published code takes the logarithm of `v + 1e-8` instead.

    Args:
        leaf_logits: float tensor `(..., k, n)`, a.
        leaf_probabilities: float tensor `(..., k, n)`, v, nonnegative, with
            at least one positive value for each example.

    Returns:
        A tensor `(..., k, n)`, nonnegative.
    """

    @tf.custom_gradient
    def weigh(logits: tf.Tensor, reach: tf.Tensor) -> Any:
        # tf.where broadcasts, which takes twice as long.
        possible = tf.raw_ops.Select(
            condition=reach >= _UNREACHED,
            x=logits,
            y=tf.fill(tf.shape(logits), logits.dtype.min),
        )
        highest = tf.reduce_max(possible, axis=[-2, -1], keepdims=True)
        factors = tf.exp(possible - tf.stop_gradient(highest))
        weights = reach * factors

        def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            return upstream * weights, upstream * factors

        return weights, gradient

    return weigh(leaf_logits, leaf_probabilities)

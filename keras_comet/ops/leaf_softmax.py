"""The mixture over the leaves of all trees, without a logarithm."""

import tensorflow as tf

# A leaf reached with less counts as not reached: 1e-30 is far below what
# changes a float32 mixture, and its reciprocal, which the gradient of the
# normalization contains, is still far from overflow.
_UNREACHED = 1e-30


def leaf_softmax(
    leaf_logits: tf.Tensor, leaf_probabilities: tf.Tensor
) -> tf.Tensor:
    """One softmax over the leaves of all trees, weighted by their reach.

    `w_je = v_je exp(a_je) / sum_{j,l} v_jl exp(a_jl)`, which is
    `softmax(a + log v)` over the k * n leaves. Computed as
    `v * exp(a - max over leaves with v > 0)`: a leaf that is not reached gets
    an exact zero and a finite gradient, and a large logit on it is harmless.

    Reference:
    - [Ibrahim et al., 2023](https://arxiv.org/abs/2306.02824), Eq. (4); the
      published code takes the logarithm of `v + 1e-8` instead.

    Args:
        leaf_logits: float tensor `(..., k, n)`, a.
        leaf_probabilities: float tensor `(..., k, n)`, v, nonnegative, with
            at least one positive value for each example.

    Returns:
        A tensor `(..., k, n)`, nonnegative, summing to one over both axes.
    """
    reached = leaf_probabilities >= _UNREACHED
    highest = tf.reduce_max(
        tf.where(reached, leaf_logits, leaf_logits.dtype.min),
        axis=[-2, -1],
        keepdims=True,
    )
    # The maximum cancels out of the quotient, so no gradient passes it.
    # Logits of unreached leaves may exceed it: cut them before exp overflows.
    exponent = tf.minimum(leaf_logits - tf.stop_gradient(highest), 0.0)
    weights = tf.where(
        reached, leaf_probabilities, tf.zeros_like(leaf_probabilities)
    ) * tf.exp(exponent)
    total = tf.reduce_sum(weights, axis=[-2, -1], keepdims=True)
    # A product by the reciprocal: the gradient of a quotient costs more.
    return weights * tf.math.reciprocal(total)

"""Routing through a binary tree with any number of leaves."""

import tensorflow as tf


def leaf_probabilities(split_probabilities: tf.Tensor) -> tf.Tensor:
    """Probability of reaching each leaf of a binary tree, left to right.

    The tree has n - 1 splits in heap order: split i has the children 2i + 1
    and 2i + 2, and the indices from n - 1 on are leaves. A split with
    probability s passes `p * s` of what reaches it to its left child and
    `p * (1 - s)` to the right one; the root is reached with p = 1.

    All splits of a level are evaluated at once. When n is no power of two the
    deepest level is partly filled, from the left: its leaves come first, then
    those of the level above, which is the order from left to right.

    Reference:
    - [Ibrahim et al., 2023](https://arxiv.org/abs/2306.02824), Section 3.2

    Args:
        split_probabilities: float tensor `(..., n - 1)` within [0, 1], with a
            static last axis.

    Returns:
        A tensor `(..., n)`, nonnegative, summing to one along the last axis.

    Example:

    ```python
    import tensorflow as tf
    from keras_comet.ops import leaf_probabilities

    leaf_probabilities(tf.constant([0.9, 0.2]))  # [0.18, 0.72, 0.1]
    ```
    """
    num_splits = split_probabilities.shape[-1]
    leading = tf.shape(split_probabilities)[:-1]
    static_leading = split_probabilities.shape[:-1]
    reach = tf.ensure_shape(
        tf.ones(tf.concat([leading, [1]], 0), split_probabilities.dtype),
        [*static_leading, 1],
    )
    first = 0
    while first < num_splits:
        # Splits of this level; on the deepest one, as many as there are.
        level = split_probabilities[..., first : 2 * first + 1]
        width = level.shape[-1]
        parents = reach[..., :width]
        left = parents * level
        children = tf.stack([left, parents - left], axis=-1)
        # (..., width, 2) -> (..., 2 * width), each left child first
        children = tf.ensure_shape(
            tf.reshape(children, tf.concat([leading, [2 * width]], 0)),
            [*static_leading, 2 * width],
        )
        reach = tf.concat([children, reach[..., width:]], axis=-1)
        first = 2 * first + 1
    return reach

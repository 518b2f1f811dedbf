"""Routing through a binary tree with any number of leaves."""

import math
from collections.abc import Callable

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
    if num_splits == 0:
        # One leaf, reached by every example: the empty product.
        return tf.reduce_prod(split_probabilities, axis=-1, keepdims=True)
    # (splits, rows): the nodes of a level are then blocks of memory, which
    # are put side by side much faster than single numbers are.
    splits = tf.transpose(tf.reshape(split_probabilities, [-1, num_splits]))
    levels = tf.split(splits, _level_widths(num_splits))
    reach = tf.ones_like(levels[0])
    for level in levels:
        reach = _descend(reach, level)
    leading = tf.shape(split_probabilities)[:-1]
    reach = tf.reshape(
        tf.transpose(reach), tf.concat([leading, [num_splits + 1]], axis=0)
    )
    return tf.ensure_shape(
        reach, [*split_probabilities.shape[:-1], num_splits + 1]
    )


def follow_splits(
    goes_left: Callable[[tf.Tensor], tf.Tensor],
    num_leaves: int,
    root: tf.Tensor,
) -> tf.Tensor:
    """Goes from the root to one leaf, and asks the splits on the way only.

    Args:
        goes_left: function of an int32 tensor like `root` with a split each,
            in heap order; returns bools, whether the left child is next.
        num_leaves: int. Leaves of the tree, n.
        root: int32 tensor of any shape, zeros: one walk for each of them.

    Returns:
        An int32 tensor like `root`: the leaves, counted from left to right as
        in `leaf_probabilities`.

    Example:

    ```python
    import tensorflow as tf
    from keras_comet.ops import follow_splits

    left = tf.constant([False, True])
    root = tf.zeros([1], "int32")
    follow_splits(lambda split: tf.gather(left, split), 3, root)
    # [2]: to the right at the root, which is a leaf of the level above.
    ```
    """
    num_splits = num_leaves - 1
    full_levels = int(math.log2(num_leaves))
    node = root
    for level in range(math.ceil(math.log2(num_leaves))):
        is_split = node < num_splits
        left = goes_left(tf.minimum(node, num_splits - 1))
        child = 2 * node + tf.where(left, 1, 2)
        # Only on the last level some nodes are leaves already.
        node = child if level < full_levels else tf.where(is_split, child, node)
    # The first node of the deepest level and of the one above.
    deepest, above = 2 ** (full_levels + 1) - 1, 2**full_levels - 1
    num_split_above = num_splits - above
    return tf.where(
        node >= deepest, node - deepest, node - above + num_split_above
    )


def _level_widths(num_splits: int) -> list[int]:
    """Number of splits on each level: 1, 2, 4, and what is left."""
    widths: list[int] = []
    while num_splits > 0:
        widths.append(min(2 ** len(widths), num_splits))
        num_splits -= widths[-1]
    return widths


def _descend(reach: tf.Tensor, level: tf.Tensor) -> tf.Tensor:
    """Replaces the nodes that split by their children, left to right."""
    width = level.shape[0]
    partly = width < reach.shape[0]
    parents = reach[:width] if partly else reach
    left = parents * level
    # (width, 2, rows) -> (2 * width, rows), each left child first
    children = tf.reshape(
        tf.stack([left, parents - left], axis=1), [2 * width, -1]
    )
    if partly:
        children = tf.concat([children, reach[width:]], axis=0)
    return children

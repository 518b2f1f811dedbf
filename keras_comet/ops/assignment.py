"""Exact linear assignment in TensorFlow operations."""

import tensorflow as tf


def linear_assignment(cost: tf.Tensor) -> tf.Tensor:
    """The permutation of least total cost, exactly.

    The Hungarian method by shortest augmenting paths, O(n^3): rows enter one
    at a time, and each is assigned along the cheapest alternating path. Only
    TensorFlow operations of static shape, so that it runs in graphs, under
    XLA and on every replica, and needs no SciPy.

    Reference:
    - [Jonker and Volgenant, 1987](https://doi.org/10.1007/BF02278710)

    Args:
        cost: float tensor `(n, n)` of static shape, finite.

    Returns:
        An int32 tensor `(n,)`: the column that each row is assigned to.

    Raises:
        ValueError: If `cost` is not a square matrix of static shape.

    Example:

    ```python
    import tensorflow as tf
    from keras_comet.ops import linear_assignment

    linear_assignment(tf.constant([[4.0, 1.0], [2.0, 3.0]]))  # [1, 0]
    ```
    """
    cost = tf.convert_to_tensor(cost)
    if cost.shape.rank != 2 or cost.shape[0] != cost.shape[1]:
        raise ValueError(
            "`cost` must be a square matrix of static shape (n, n). "
            f"Received: shape {cost.shape}"
        )
    size = int(cost.shape[0])
    # Index 0 of every vector below is a sentinel: the row that is being
    # entered sits in "column 0" until a free column is found for it.
    slot = tf.range(size + 1)
    # row_of[j]: the row in column j, 0 if none. Rows and columns from 1.
    row_of = tf.zeros([size + 1], tf.int32)
    row_price = tf.zeros([size + 1], cost.dtype)
    column_price = tf.zeros([size + 1], cost.dtype)

    def enter_row(
        row: tf.Tensor,
        row_of: tf.Tensor,
        row_price: tf.Tensor,
        column_price: tf.Tensor,
    ) -> tuple[tf.Tensor, ...]:
        row_of = tf.where(slot == 0, row, row_of)

        def grow_path(
            column: tf.Tensor,
            visited: tf.Tensor,
            slack: tf.Tensor,
            came_from: tf.Tensor,
            row_price: tf.Tensor,
            column_price: tf.Tensor,
        ) -> tuple[tf.Tensor, ...]:
            visited |= slot == column
            current = row_of[column]
            reduced = tf.concat(
                [
                    tf.constant([cost.dtype.max], cost.dtype),
                    cost[current - 1] - row_price[current] - column_price[1:],
                ],
                axis=0,
            )
            closer = ~visited & (reduced < slack)
            slack = tf.where(closer, reduced, slack)
            came_from = tf.where(closer, column, came_from)
            column = tf.argmin(
                tf.where(visited, cost.dtype.max, slack), output_type=tf.int32
            )
            step = slack[column]
            in_path = tf.scatter_nd(
                row_of[:, tf.newaxis],
                tf.cast(visited, tf.int32),
                [size + 1],
            )
            row_price += tf.where(in_path > 0, step, 0.0)
            column_price -= tf.where(visited, step, 0.0)
            slack -= tf.where(visited, 0.0, step)
            return (
                column,
                visited,
                slack,
                came_from,
                row_price,
                column_price,
            )

        column, _, _, came_from, row_price, column_price = tf.while_loop(
            lambda column, *_: row_of[column] != 0,
            grow_path,
            (
                tf.constant(0),
                tf.zeros([size + 1], tf.bool),
                tf.fill([size + 1], tf.constant(cost.dtype.max, cost.dtype)),
                tf.zeros([size + 1], tf.int32),
                row_price,
                column_price,
            ),
            maximum_iterations=size + 1,
        )

        def flip_edge(
            column: tf.Tensor, row_of: tf.Tensor
        ) -> tuple[tf.Tensor, tf.Tensor]:
            previous = came_from[column]
            row_of = tf.where(slot == column, row_of[previous], row_of)
            return previous, row_of

        _, row_of = tf.while_loop(
            lambda column, _: column != 0,
            flip_edge,
            (column, row_of),
            maximum_iterations=size + 1,
        )
        return row + 1, row_of, row_price, column_price

    _, row_of, _, _ = tf.while_loop(
        lambda row, *_: row <= size,
        enter_row,
        (tf.constant(1), row_of, row_price, column_price),
        maximum_iterations=size,
    )
    return tf.math.invert_permutation(row_of[1:] - 1)

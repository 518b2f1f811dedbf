"""A sparse matrix times a dense one, on all cores and with gradients."""

from typing import Any

import tensorflow as tf


def sparse_product(
    values: tf.Tensor,
    rows: tf.Tensor,
    columns: tf.Tensor,
    shape: tf.Tensor,
    dense: tf.Tensor,
    transpose: bool = False,
) -> tf.Tensor:
    """`A dense` or `A^T dense`, for `A[rows[i], columns[i]] = values[i]`.

    Does what `tf.sparse.sparse_dense_matmul` does, which uses one core, in
    about half of the time. What no entry refers to is not read.

    Args:
        values: float32 or float64 tensor `(entries,)`.
        rows: int64 tensor `(entries,)`, ascending.
        columns: int64 tensor `(entries,)`, ascending within a row.
        shape: int64 tensor `(2,)`: rows and columns of A.
        dense: matrix of the type of `values`.
        transpose: bool. Whether A is transposed. Defaults to `False`.

    Returns:
        A matrix of as many columns as `dense`.
    """

    @tf.custom_gradient
    def product(
        values: tf.Tensor,
        rows: tf.Tensor,
        columns: tf.Tensor,
        shape: tf.Tensor,
        dense: tf.Tensor,
    ) -> Any:
        def gradient(upstream: tf.Tensor) -> Any:
            from_dense = sparse_product(
                values, rows, columns, shape, upstream, not transpose
            )
            left, right = (dense, upstream) if transpose else (upstream, dense)
            inner = tf.gather(left, rows) * tf.gather(right, columns)
            return tf.reduce_sum(inner, axis=1), None, None, None, from_dense

        # A product without rows divides by zero, which aborts the process
        # on x86. It gets one that is taken away again.
        num_rows, at_least = (
            (shape[1], [0, 1]) if transpose else (shape[0], [1, 0])
        )
        matrix = tf.raw_ops.SparseTensorToCSRSparseMatrix(
            indices=tf.stack([rows, columns], axis=1),
            values=values,
            dense_shape=tf.maximum(shape, at_least),
        )
        if transpose:
            # The product's own transpose_a is three times slower.
            matrix = tf.raw_ops.SparseMatrixTranspose(
                input=matrix, type=values.dtype
            )
        found = tf.raw_ops.SparseMatrixMatMul(a=matrix, b=dense)
        return found[:num_rows], gradient

    # The gradient of tf.cond does not find what a branch did not make.
    return product(
        *[tf.identity(each) for each in (values, rows, columns, shape, dense)]
    )

import numpy as np
import pytest
import tensorflow as tf

from keras_comet.ops.sparse_product import sparse_product
from tests.helpers import gradients
from tests.helpers import rows

# Row 1 is empty, column 2 is in two rows, column 3 in none.
ROWS, COLUMNS = [0, 0, 2, 3, 3], [0, 2, 1, 2, 4]


def multiply(values, dense, transpose=False):
    return sparse_product(
        values,
        tf.constant(ROWS, tf.int64),
        tf.constant(COLUMNS, tf.int64),
        tf.constant([4, 5], tf.int64),
        dense,
        transpose,
    )


def matrix_of(values):
    matrix = np.zeros((4, 5))
    matrix[ROWS, COLUMNS] = values
    return matrix


@pytest.mark.parametrize("transpose", [False, True])
@pytest.mark.parametrize("compiled", [False, True])
def test_equals_the_dense_product_and_its_gradients(compiled, transpose):
    heights = (5, 4) if transpose else (4, 5)
    upstream, dense = (
        rows(height, 3, seed=seed) for seed, height in enumerate(heights, 1)
    )
    values = rows(5)

    def run(values, dense):
        _, found = gradients(
            lambda: tf.reduce_sum(
                upstream * multiply(values, dense, transpose)
            ),
            [values, dense],
        )
        return multiply(values, dense, transpose), *found

    product, from_values, from_dense = (tf.function(run) if compiled else run)(
        tf.constant(values), tf.constant(dense)
    )
    matrix, outer = matrix_of(values), upstream @ dense.T
    if transpose:
        matrix, outer = matrix.T, outer.T
    np.testing.assert_allclose(product, matrix @ dense, atol=1e-6)
    np.testing.assert_allclose(from_values, outer[ROWS, COLUMNS], atol=1e-6)
    np.testing.assert_allclose(from_dense, matrix.T @ upstream, atol=1e-6)


def test_has_second_derivatives():
    # d/dv of |A^T u|^2 / 2 is (u u^T A) at the entries.
    values, upstream = rows(5), rows(4, 3, seed=2)
    sources = [tf.constant(values), tf.zeros([5, 3])]

    def loss():
        _, [_, from_dense] = gradients(
            lambda: tf.reduce_sum(upstream * multiply(*sources)), sources
        )
        return tf.reduce_sum(tf.square(from_dense)) / 2

    _, [found, _] = gradients(loss, sources)
    expected = upstream @ upstream.T @ matrix_of(values)
    found = tf.convert_to_tensor(found)
    np.testing.assert_allclose(found, expected[ROWS, COLUMNS], atol=1e-5)


@pytest.mark.parametrize(("transpose", "unused"), [(False, 3), (True, 1)])
def test_what_no_entry_refers_to_is_not_read(transpose, unused):
    dense = rows(4 if transpose else 5, 3)
    dense[unused] = np.nan
    found = multiply(tf.ones([5]), tf.constant(dense), transpose)
    assert np.isfinite(found).all()


@pytest.mark.parametrize("shape", [(0, 0), (3, 0), (0, 3), (3, 2)])
def test_no_entries_give_zeros(shape):
    none = tf.zeros([0], tf.int64)
    sources = [tf.zeros([0]), tf.ones([shape[1], 4])]
    product, found = gradients(
        lambda: sparse_product(
            sources[0], none, none, tf.constant(shape, tf.int64), sources[1]
        ),
        sources,
    )
    np.testing.assert_array_equal(product, np.zeros((shape[0], 4)))
    np.testing.assert_array_equal(found[1], np.zeros((shape[1], 4)))

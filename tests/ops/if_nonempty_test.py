import numpy as np
import pytest
import tensorflow as tf

from keras_comet.ops import if_nonempty


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("num_rows", [0, 3])
def test_calls_only_if_there_are_rows(num_rows, static, compiled):
    was_called = tf.Variable(False)

    def double(rows):
        was_called.assign(True)
        return 2.0 * tf.concat([rows, rows], axis=-1)

    def run(rows):
        return if_nonempty(rows, double, [4], tf.float32)

    rows = np.arange(2.0 * num_rows, dtype="float32").reshape(num_rows, 2)
    if compiled:
        shape = [num_rows if static else None, 2]
        run = tf.function(run, input_signature=[tf.TensorSpec(shape)])
    found = run(tf.constant(rows))
    assert bool(was_called) == (num_rows > 0)
    np.testing.assert_array_equal(found, 2.0 * np.tile(rows, 2))

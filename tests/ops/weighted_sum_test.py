import numpy as np
import pytest
import tensorflow as tf

from keras_comet.ops import weighted_sum
from tests.helpers import gradients
from tests.helpers import rows


def sum_in_a_loop(outputs, weights, upstream):
    """One gate's sum, and the gradients of `sum(upstream * sum)`."""
    total = np.zeros(upstream.shape)
    from_outputs, from_weights = (
        np.zeros(outputs.shape),
        np.zeros(weights.shape),
    )
    for row, expert in zip(*np.nonzero(weights), strict=True):
        weight, output = weights[row, expert], outputs[expert, row]
        total[row] += weight * output
        from_outputs[expert, row] = weight * upstream[row]
        from_weights[row, expert] = np.sum(output * upstream[row])
    return total, from_outputs, from_weights


@pytest.mark.parametrize("overflow", [None, np.inf, np.nan])
@pytest.mark.parametrize("shape", [(), (2,), (2, 3)])
@pytest.mark.parametrize("compiled", [False, True])
def test_sums_all_experts_for_each_gate(compiled, shape, overflow):
    outputs, upstream = rows(3, 4, *shape), rows(2, 4, *shape, seed=1)
    weights = rows(2, 4, 3, seed=2)
    if overflow is not None:
        # No gate has weight there.
        outputs[1, 2] = overflow
        weights[:, 2, 1] = 0.0
    tensors = [tf.constant(each) for each in (*outputs, *weights)]

    def run(*tensors):
        sums = []

        def loss():
            sums.extend(weighted_sum(tensors[:3], tensors[3:]))
            return tf.reduce_sum(upstream * tf.stack(sums))

        _, found = gradients(loss, tensors)
        return sums, found

    sums, found = (tf.function(run) if compiled else run)(*tensors)
    expected = [
        sum_in_a_loop(outputs, *each)
        for each in zip(weights, upstream, strict=True)
    ]
    np.testing.assert_allclose(sums, [each[0] for each in expected], atol=1e-5)
    np.testing.assert_allclose(
        found[:3], sum(each[1] for each in expected), atol=1e-5
    )
    from_weights = np.array([each[2] for each in expected])
    selected = weights != 0.0
    np.testing.assert_allclose(
        np.array(found[3:])[selected], from_weights[selected], atol=1e-5
    )
    assert np.isfinite(found[:3]).all()


def test_nan_of_a_selected_expert_stays_in_its_row():
    outputs = np.ones((2, 3, 1), "float32")
    outputs[0, 1] = np.nan
    [total] = weighted_sum(list(tf.constant(outputs)), [tf.ones([3, 2]) / 2])
    np.testing.assert_array_equal(total, [[1.0], [np.nan], [1.0]])


def test_weights_take_the_precision_of_the_outputs():
    outputs = [tf.ones([2, 3], "bfloat16")] * 2
    [total] = weighted_sum(outputs, [tf.ones([2, 2]) / 2])
    assert total.dtype == tf.bfloat16
    np.testing.assert_array_equal(tf.cast(total, tf.float32), np.ones((2, 3)))

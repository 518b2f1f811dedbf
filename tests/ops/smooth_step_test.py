import numpy as np
import pytest
import tensorflow as tf

from keras_comet.ops import smooth_step
from tests import reference
from tests.helpers import gradients


@pytest.mark.parametrize("gamma", [1e-3, 0.5, 1.0, 1e3])
def test_smooth_step_is_the_cubic(gamma):
    z = gamma * np.linspace(-0.75, 0.75, 31)
    expected = [reference.smooth_step(each, gamma) for each in z]
    np.testing.assert_allclose(
        smooth_step(tf.constant(z, tf.float32), gamma), expected, atol=1e-6
    )


@pytest.mark.parametrize("gamma", [1e-3, 0.7, 1e3])
def test_smooth_step_is_exactly_zero_and_one_outside(gamma):
    z = gamma * np.array([-1e6, -1.0, -0.5001, 0.5001, 1.0, 1e6], "float32")
    np.testing.assert_array_equal(
        smooth_step(tf.constant(z), gamma), [0.0, 0.0, 0.0, 1.0, 1.0, 1.0]
    )


def test_smooth_step_slope_is_continuous_and_highest_in_the_middle():
    # S'(z) = 3 / (2 gamma) - 6 z^2 / gamma^3 inside, 0 outside.
    gamma = 2.0
    z = tf.constant([-3.0, -1.0, -0.5, 0.0, 0.5, 1.0, 3.0])
    with tf.GradientTape() as tape:
        tape.watch(z)
        steps = smooth_step(z, gamma)
    inside = 3 / (2 * gamma) - 6 * np.square(z) / gamma**3
    expected = np.where(np.abs(z) <= gamma / 2, inside, 0.0)
    np.testing.assert_allclose(tape.gradient(steps, z), expected, atol=1e-6)


@pytest.mark.parametrize("compiled", [False, True])
def test_smooth_step_has_a_second_derivative(compiled):
    # S''(z) = -12 z / gamma^3 inside, 0 outside.
    gamma = 2.0
    z = tf.constant([-3.0, -0.5, 0.0, 0.5, 3.0])

    def curvature():
        _, [found] = gradients(
            lambda: gradients(lambda: smooth_step(z, gamma), [z])[1][0], [z]
        )
        return found

    found = (tf.function(curvature) if compiled else curvature)()
    np.testing.assert_allclose(found, [0.0, 0.75, 0.0, -0.75, 0.0], atol=1e-6)

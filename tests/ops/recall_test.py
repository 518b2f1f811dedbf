import pytest
import tensorflow as tf

from keras_comet.ops.recall import is_recalling
from keras_comet.ops.recall import recall
from keras_comet.ops.recall import recalling


class Counter:
    """Doubles its input, and counts how often."""

    def __init__(self):
        self.calls = 0

    def __call__(self, inputs):
        def compute():
            self.calls += 1
            return inputs + inputs

        return recall(self, inputs, compute)


def test_equal_inputs_are_computed_once():
    double = Counter()
    with recalling():
        for _ in range(3):
            assert double(tf.constant([1.0, 2.0])).numpy().tolist() == [2, 4]
        assert double.calls == 1
        assert double(tf.constant([1.0, 3.0])).numpy().tolist() == [2, 6]
        assert double(tf.constant([1.0, 2.0])).numpy().tolist() == [2, 4]
    assert double.calls == 2


@pytest.mark.parametrize(
    "other", [tf.constant([1, 2]), tf.constant([[1.0, 2.0]]), tf.zeros([0])]
)
def test_other_type_or_shape_is_another_input(other):
    double = Counter()
    with recalling():
        double(tf.constant([1.0, 2.0]))
        result = double(other)
    assert double.calls == 2
    assert (result.dtype, result.shape) == (other.dtype, other.shape)


def test_each_owner_has_its_own_results():
    one, other = Counter(), Counter()
    with recalling():
        one(tf.ones(2))
        other(tf.ones(2))
    assert (one.calls, other.calls) == (1, 1)


def test_nothing_is_recalled_outside_and_nothing_is_left():
    double = Counter()
    assert not is_recalling()
    double(tf.ones(2))
    for _ in range(2):
        with recalling():
            assert is_recalling()
            double(tf.ones(2))
    assert not is_recalling()
    assert double.calls == 3
    with pytest.raises(RuntimeError), recalling():
        raise RuntimeError
    assert not is_recalling()


def test_inner_recalling_starts_anew():
    double = Counter()
    with recalling():
        double(tf.ones(2))
        with recalling():
            double(tf.ones(2))
        double(tf.ones(2))
    assert double.calls == 2


def test_graphs_compute_anew():
    double = Counter()

    @tf.function
    def run(x):
        assert not is_recalling()
        return double(x) + double(x)

    with recalling():
        assert run(tf.ones(2)).numpy().tolist() == [4, 4]
    assert double.calls == 2


def test_many_inputs_are_computed_but_not_kept():
    double = Counter()
    with recalling():
        for _ in range(2):
            for value in range(20):
                result = double(tf.constant([value]))
                assert result.numpy().tolist() == [2 * value]
    # Some of the first are kept, and the last one is not.
    assert 20 < double.calls < 40


def test_kept_input_does_not_follow_a_variable():
    double = Counter()
    variable = tf.Variable([1.0])
    with recalling():
        double(tf.convert_to_tensor(variable))
        variable.assign([5.0])
        assert double(tf.convert_to_tensor(variable)).numpy() == 10
    assert double.calls == 2

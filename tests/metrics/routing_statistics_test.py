import numpy as np
import pytest
import tensorflow as tf

from keras_comet.metrics import expert_usage
from keras_comet.metrics import routing_statistics

# Rows with 2, 1, 1 and 3 experts; expert 4 is never used.
WEIGHTS = np.array(
    [
        [0.5, 0.5, 0.0, 0.0, 0.0],
        [1.0, 0.0, 0.0, 0.0, 0.0],
        [0.0, 0.0, 1.0, 0.0, 0.0],
        [0.25, 0.25, 0.0, 0.5, 0.0],
    ],
    "float32",
)
USAGE = np.array([1.75, 0.75, 1.0, 0.5, 0.0]) / 4
EXPECTED = {
    "cardinality": 7 / 4,
    "sparsity": 1 - 7 / 20,
    "normalized_entropy": -np.sum(USAGE[:4] * np.log(USAGE[:4])) / np.log(5),
    "largest_share": 1.75 / 4,
    "active_experts": 4.0,
    "dead_experts": 1.0,
    "within_k": 3 / 4,
}


def to_floats(statistics):
    return {name: float(value) for name, value in statistics.items()}


@pytest.mark.parametrize("jit_compile", [None, False, True])
def test_statistics_and_usage_equal_numpy(jit_compile):
    def both(weights):
        return routing_statistics(weights, k=2), expert_usage(weights)

    function = both
    if jit_compile is not None:
        function = tf.function(
            both,
            jit_compile=jit_compile,
            input_signature=[tf.TensorSpec([None, 5])],
        )
    statistics, usage = function(tf.constant(WEIGHTS))
    assert to_floats(statistics) == pytest.approx(EXPECTED, abs=1e-6)
    np.testing.assert_allclose(usage, USAGE, atol=1e-6)
    assert all(value.shape == () for value in statistics.values())
    assert {value.dtype for value in statistics.values()} == {tf.float32}
    assert usage.shape == (5,) and usage.dtype == tf.float32


@pytest.mark.parametrize("shape", [(2, 2, 5), (1, 4, 1, 5)])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_leading_axes_and_dtypes_are_free(shape, dtype):
    weights = WEIGHTS.reshape(shape).astype(dtype)
    assert to_floats(routing_statistics(weights, k=2)) == pytest.approx(
        EXPECTED, abs=1e-6
    )
    np.testing.assert_allclose(expert_usage(weights), USAGE, atol=1e-6)


def test_one_row_without_batch_is_one_row():
    assert float(routing_statistics([0.5, 0.5, 0.0])["cardinality"]) == 2.0


def test_without_k_there_is_no_within_k():
    assert set(EXPECTED) - set(routing_statistics(WEIGHTS)) == {"within_k"}


def test_weights_by_task_give_statistics_by_task():
    weights = {"click": WEIGHTS, "buy": WEIGHTS[:2]}
    click = pytest.approx(EXPECTED, abs=1e-6)

    statistics = routing_statistics(weights, k=2)
    assert list(statistics) == ["click", "buy"]
    assert to_floats(statistics["click"]) == click
    assert float(statistics["buy"]["within_k"]) == 1.0

    statistics = routing_statistics(weights, k={"buy": 1})
    assert "within_k" not in statistics["click"]
    assert float(statistics["buy"]["within_k"]) == 0.5


@pytest.mark.parametrize("shape", [(4, 5), (2, 2, 5)])
def test_union_counts_what_any_task_uses(shape):
    # With the second task rows use 3, 1, 2 and 3 experts.
    other = np.array(
        [
            [0.5, 0.0, 0.0, 0.5, 0.0],
            [1.0, 0.0, 0.0, 0.0, 0.0],
            [0.0, 0.0, 0.0, 0.0, 1.0],
            [0.0, 0.0, 0.0, 1.0, 0.0],
        ],
        "float32",
    )
    tasks = {"click": WEIGHTS.reshape(shape), "buy": other.reshape(shape)}
    plain = routing_statistics(tasks)
    for task, statistics in routing_statistics(tasks, union=True).items():
        found = to_floats(statistics)
        assert found.pop("union_cardinality") == 9 / 4
        assert found.pop("largest_union") == 3.0
        assert found == to_floats(plain[task])
    # Rows that have no number for any of the tasks are left out.
    other[0, 1] = np.nan
    tasks["buy"] = other.reshape(shape)
    found = routing_statistics(tasks, union=True)["click"]
    assert float(found["union_cardinality"]) == 2.0
    none = {"click": WEIGHTS[:0], "buy": WEIGHTS[:0]}
    for name in ("union_cardinality", "largest_union"):
        assert np.isnan(routing_statistics(none, union=True)["buy"][name])


@pytest.mark.parametrize(
    ("weights", "match"),
    [
        (WEIGHTS, "a dict by task"),
        ({"a": WEIGHTS, "b": WEIGHTS[:, :4]}, r"'b': \(4, 4\)"),
        ({}, "shapes {}"),
    ],
)
def test_union_of_no_tasks_or_other_experts_raises(weights, match):
    with pytest.raises(ValueError, match=match):
        routing_statistics(weights, union=True)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_rows_with_nan_are_left_out(bad):
    row = np.array([[bad, 0.0, 0.0, 0.0, 1.0]], "float32")
    weights = np.concatenate([WEIGHTS[:1], row, WEIGHTS[1:]])
    assert to_floats(routing_statistics(weights, k=2)) == pytest.approx(
        EXPECTED, abs=1e-6
    )
    np.testing.assert_allclose(expert_usage(weights), USAGE, atol=1e-6)


@pytest.mark.parametrize(
    "weights",
    [
        np.zeros((0, 5), "float32"),
        np.zeros((0, 3, 5), "float32"),
        np.full((2, 5), np.nan),
    ],
)
def test_nothing_to_count_has_no_mean_and_no_active_expert(weights):
    statistics = to_floats(routing_statistics(weights, k=2))
    assert statistics.pop("active_experts") == 0.0
    assert statistics.pop("dead_experts") == 5.0
    assert len(statistics) == 5 and np.isnan(list(statistics.values())).all()
    assert np.isnan(expert_usage(weights)).all()


def test_extremes_of_the_normalized_entropy():
    def entropy(weights):
        return float(routing_statistics(weights)["normalized_entropy"])

    assert entropy(np.eye(7)) == pytest.approx(1.0)
    assert entropy(np.eye(7)[[2, 2]]) == 0.0
    assert entropy(np.ones((3, 1))) == 1.0


def test_weights_by_hand_are_not_changed():
    before = WEIGHTS.copy()
    routing_statistics(WEIGHTS, k=1)
    np.testing.assert_array_equal(WEIGHTS, before)


@pytest.mark.parametrize(
    ("weights", "k", "match"),
    [
        (WEIGHTS, 0, "Received: k=0"),
        ({"click": WEIGHTS}, {"click": -1}, "Received: k=-1"),
        ({"click": WEIGHTS}, {"clik": 2}, "only by the tasks"),
        (WEIGHTS, {"click": 2}, "only by the tasks"),
        (np.zeros((3, 0)), None, "known number of experts"),
        (np.float32(1.0), None, "known number of experts"),
    ],
)
def test_bad_arguments_raise(weights, k, match):
    with pytest.raises(ValueError, match=match):
        routing_statistics(weights, k=k)


def test_unknown_number_of_experts_raises():
    @tf.function(input_signature=[tf.TensorSpec([None, None])])
    def statistics(weights):
        return routing_statistics(weights)

    with pytest.raises(ValueError, match="known number of experts"):
        statistics(WEIGHTS)

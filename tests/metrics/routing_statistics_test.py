import math

import numpy as np
import pytest
import tensorflow as tf

from keras_comet import routing_statistics

WEIGHTS = np.array(
    [[0.5, 0.5, 0, 0], [1, 0, 0, 0], [0.2, 0.3, 0.5, 0]], "float32"
)


def test_statistics_equal_the_formulas():
    values = routing_statistics(WEIGHTS, k=2)
    shares = WEIGHTS.mean(axis=0)
    entropy = -sum(u * math.log(u) for u in shares if u > 0) / math.log(4)
    expected = {
        "cardinality": 2.0,
        "sparsity": 0.5,
        "normalized_entropy": entropy,
        "largest_share": 1.7 / 3,
        "active_experts": 3.0,
        "dead_experts": 1.0,
        "within_k": 2 / 3,
    }
    assert set(values) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(values[name], value, rtol=1e-6)


def test_statistics_by_task_and_in_a_graph():
    by_task = tf.function(routing_statistics)({"a": tf.constant(WEIGHTS)})
    np.testing.assert_allclose(by_task["a"]["cardinality"], 2.0)
    assert "within_k" not in by_task["a"]


@pytest.mark.parametrize("shape", [(0, 4), (2, 3, 4)])
def test_empty_batch_and_tokens_are_defined(shape):
    weights = np.full(shape, 0.25, "float32")
    rows = int(np.prod(shape[:-1]))
    values = routing_statistics(weights, k=1)
    # A mean over no rows is not a number.
    expected = 4.0 if rows else np.nan
    np.testing.assert_allclose(values["cardinality"], expected)


def test_one_expert_has_full_entropy():
    values = routing_statistics(np.ones((3, 1), "float32"))
    assert float(values["normalized_entropy"]) == 1.0

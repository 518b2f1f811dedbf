"""Relaxed search: its optima, and that it ends in permutations."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

import keras_comet
from keras_comet._keras import keras
from keras_comet.gates.expert_permutation import nearest_permutations
from tests.helpers import variables
from tests.search.problems import KINDS
from tests.search.problems import Planted


def make_optimizer(steps, inner=None, **kwargs):
    return keras_comet.LocalSearchOptimizer(
        inner or keras.optimizers.SGD(0.1), steps, method="sinkhorn", **kwargs
    )


def make_step(problem, optimizer):
    """Returns a function that searches for one step."""
    [permutation] = problem.permutations
    searched = permutation.permutation_weights
    optimizer.build([searched])
    weights = variables([searched])

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            loss = problem.loss()
        gradients = tape.gradient(loss, weights)
        optimizer.apply_gradients(zip(gradients, [searched], strict=True))

    return step


def run(problem, steps, **kwargs):
    """Runs the whole search, and returns P after each step."""
    step = make_step(problem, make_optimizer(steps, **kwargs))
    [permutation] = problem.permutations
    searched = permutation.permutation_weights
    path = [np.array(searched)]
    for _ in range(steps):
        step()
        path.append(np.array(searched))
    return np.array(path)


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(kind, marks=() if kind == "comet" else pytest.mark.slow)
        for kind in KINDS
    ],
)
def test_planted_gap_is_closed_by_90_percent_in_the_median(kind):
    problem = Planted(kind, 16, 0, batch=128)
    optimizer = make_optimizer(150)
    step = make_step(problem, optimizer)
    [permutation] = problem.permutations
    state = [
        *optimizer.variables,
        permutation.permutation_weights,
        permutation.frozen,
    ]
    at_first = [np.array(variable) for variable in state]
    gaps = []
    for seed in range(3):
        problem.draw(seed)
        before = float(problem.loss())
        # One compiled step for all seeds.
        for variable, value in zip(state, at_first, strict=True):
            variable.assign(value)
        for _ in range(150):
            step()
        assert bool(tf.convert_to_tensor(permutation.frozen))
        gaps.append(1.0 - float(problem.loss()) / before)
    assert np.median(gaps) >= 0.9, gaps


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5])
def test_rounding_equals_brute_force(n):
    weights = np.random.default_rng(n).uniform(size=(3, n, n))
    rounded = nearest_permutations(tf.constant(weights, tf.float32)).numpy()
    for matrix, order in zip(weights, rounded, strict=True):
        best = max(
            itertools.permutations(range(n)),
            key=lambda each, m=matrix: m[np.arange(n), list(each)].sum(),
        )
        np.testing.assert_array_equal(order, best)


def test_begins_half_at_the_assignment_and_half_spread_out():
    problem = Planted("top_k", 5, 0, batch=32)
    [permutation] = problem.permutations
    permutation.assignment.assign([[2, 0, 4, 1, 3]])
    optimizer = make_optimizer(10)
    optimizer.build([permutation.permutation_weights])
    expected = np.full((1, 5, 5), 0.5 / 4)
    expected[0, np.arange(5), [2, 0, 4, 1, 3]] = 0.5
    np.testing.assert_allclose(
        np.array(permutation.permutation_weights), expected, atol=1e-5
    )
    assert not bool(tf.convert_to_tensor(permutation.frozen))


def test_p_is_doubly_stochastic_throughout_and_a_permutation_at_the_end():
    problem = Planted("comet", 5, 0, batch=64)
    [permutation] = problem.permutations
    path = run(problem, 30)
    np.testing.assert_allclose(path.sum(axis=-2), 1.0, atol=1e-5)
    # Rows are normalized before columns, hence nearly.
    np.testing.assert_allclose(path.sum(axis=-1), 1.0, atol=0.05)
    assert (path[:-1].max(axis=-1) < 1.0).any()
    order = np.array(permutation.assignment)
    np.testing.assert_array_equal(path[-1], np.eye(5)[order])
    np.testing.assert_array_equal(np.sort(order), [np.arange(5)])


@pytest.mark.parametrize("num_permutations", [1, 2])
def test_update_moves_weight_away_from_what_costs(num_permutations):
    # What output 1 gave to the costly expert 2 goes to the others.
    permutation = keras_comet.ExpertPermutation(4, num_permutations)
    searched = permutation.permutation_weights
    optimizer = make_optimizer(
        10, temperature=1.0, permutation_learning_rate=0.2
    )
    optimizer.build([searched])
    before = np.array(searched)
    cost = np.zeros(before.shape, "float32")
    cost[:, 1, 2] = 1.0
    optimizer.apply_gradients([(tf.constant(cost), searched)])
    change = np.array(searched) - before
    assert (change[:, 1, 2] < -0.01).all()
    assert (change[:, 1, [0, 3]] > 0.0).all()


def test_temperature_and_rate_may_be_schedules_over_updates():
    decay = keras.optimizers.schedules.PolynomialDecay
    problem = Planted("top_k", 4, 0, batch=32)
    path = run(
        problem,
        6,
        temperature=decay(1.0, 6, 0.01),
        permutation_learning_rate=decay(0.0, 6, 0.0),
        num_iterations=3,
    )
    # Logits stay: P = sinkhorn(log(3) I / temperature), on the diagonal
    # 1 / (1 + 3 exp(-log(3) / t)) by symmetry.
    for step, weights in enumerate(path[:-1]):
        temperature = 0.01 + 0.99 * (1 - step / 6)
        expected = 1.0 / (1.0 + 3.0 * np.exp(-np.log(3.0) / temperature))
        np.testing.assert_allclose(weights[0].diagonal(), expected, atol=1e-5)
    np.testing.assert_array_equal(path[-1], [np.eye(4)])


def test_two_runs_are_equal():
    paths = [
        run(Planted("top_k", 4, 0, batch=32), 8, num_iterations=3)
        for _ in range(2)
    ]
    np.testing.assert_array_equal(*paths)

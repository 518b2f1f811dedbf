"""Search by swaps, on problems solved by other means."""

import collections
import itertools
import math
import time

import hypothesis
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies

import keras_comet
from keras_comet._keras import keras
from tests.helpers import rows
from tests.search.problems import KINDS
from tests.search.problems import Planted


def search(loss_fn, permutations, **budget):
    optimizer = keras_comet.LocalSearchOptimizer(keras.optimizers.SGD(), 10)
    return optimizer.search(loss_fn, permutations, **budget)


def orders_of(permutations):
    return [np.array(each.assignment) for each in permutations]


def swaps(orders):
    """All orders that differ by one swap within one row."""
    for index, order in enumerate(orders):
        for row in range(len(order)):
            for i, j in itertools.combinations(range(order.shape[1]), 2):
                other = [each.copy() for each in orders]
                other[index][row, [i, j]] = other[index][row, [j, i]]
                yield other


def assert_pairwise_optimum(loss_fn, permutations, loss):
    orders = orders_of(permutations)
    for other in swaps(orders):
        for each, order in zip(permutations, other, strict=True):
            each.assignment.assign(order)
        assert float(loss_fn()) >= loss - 2e-6 * abs(loss)
    for each, order in zip(permutations, orders, strict=True):
        each.assignment.assign(order)


def assert_frozen(permutations):
    for each in permutations:
        assert bool(tf.convert_to_tensor(each.frozen))
        for order in np.array(each.assignment):
            np.testing.assert_array_equal(
                np.sort(order), np.arange(each.num_experts)
            )
        np.testing.assert_array_equal(
            np.array(each.permutation_weights),
            np.eye(each.num_experts)[np.array(each.assignment)],
        )


class Table:
    """A loss that is a number for each order, with no gradient at all."""

    def __init__(self, permutation, losses):
        self.permutation = permutation
        orders = itertools.permutations(range(permutation.num_experts))
        self.losses = dict(zip(orders, losses, strict=False))
        self.seen = []

    def __call__(self):
        order = tuple(int(e) for e in np.array(self.permutation.assignment)[0])
        loss = self.losses[order]
        if bool(tf.convert_to_tensor(self.permutation.frozen)):
            self.seen.append((loss, order))
        return loss


def random_table(n, seed):
    permutation = keras_comet.ExpertPermutation(n)
    random = np.random.default_rng(seed)
    losses = random.uniform(1.0, 2.0, math.factorial(n))
    return permutation, Table(permutation, losses.tolist())


@pytest.mark.parametrize(
    ("kind", "n"), list(zip(KINDS, [8, 16, 8, 16], strict=True))
)
def test_planted_permutation_is_recovered_exactly(kind, n):
    problem = Planted(kind, n, 0)
    loss_fn = tf.function(problem.loss)
    for seed in range(2):
        problem.draw(seed)
        before = float(problem.loss())
        report = search(loss_fn, problem.permutations)
        np.testing.assert_allclose(report.loss_before, before, rtol=1e-5)
        assert report.loss_after <= 1e-6 * before
        assert float(problem.loss()) <= 1e-6 * before
        assert report.is_local_optimum
        assert report.moves >= 1
        assert_frozen(problem.permutations)


@hypothesis.settings(deadline=None, max_examples=8, derandomize=True)
@hypothesis.given(
    n=strategies.integers(2, 4),
    losses=strategies.lists(
        strategies.integers(-3, 3) | strategies.floats(-1e6, 1e6),
        min_size=24,
        max_size=24,
    ),
    budget=strategies.none() | strategies.integers(0, 12),
)
def test_never_worse_for_any_loss_and_is_local_optimum_by_brute_force(
    n, losses, budget
):
    permutation = keras_comet.ExpertPermutation(n)
    loss_fn = Table(permutation, losses)
    before = float(np.float32(loss_fn()))
    report = search(loss_fn, [permutation], max_evaluations=budget)
    assert report.loss_before == before
    assert report.loss_after <= before
    assert report.loss_after == float(np.float32(loss_fn()))
    assert_frozen([permutation])
    assert report.is_local_optimum or budget is not None
    if report.is_local_optimum:
        assert_pairwise_optimum(loss_fn, [permutation], report.loss_after)


@pytest.mark.parametrize("n", [3, 4, 5])
def test_is_local_optimum_is_a_pairwise_optimum_of_a_quadratic_assignment(n):
    random = np.random.default_rng(n)
    flow = tf.constant(random.normal(size=(n, n)), tf.float32)
    distance = tf.constant(random.normal(size=(n, n)), tf.float32)
    permutation = keras_comet.ExpertPermutation(n)

    def loss_fn():
        matrix = permutation(tf.eye(n)[:, tf.newaxis])
        moved = tf.matmul(matrix, tf.matmul(distance, matrix, transpose_b=True))
        return tf.reduce_sum(flow * moved)

    def by_hand(order):
        return float(
            (flow.numpy() * distance.numpy()[np.ix_(order, order)]).sum()
        )

    report = search(loss_fn, [permutation])
    order = np.array(permutation.assignment)[0]
    assert report.is_local_optimum
    np.testing.assert_allclose(report.loss_after, by_hand(order), rtol=1e-5)
    for [other] in swaps([order[np.newaxis]]):
        assert by_hand(other[0]) >= report.loss_after - 1e-5
    best = min(map(by_hand, map(list, itertools.permutations(range(n)))))
    assert report.loss_after >= best - 1e-5


@pytest.mark.parametrize("budget", [0, 1, 3, 20])
def test_evaluations_are_bounded(budget):
    permutation, table = random_table(5, 0)
    calls = []

    def loss_fn():
        calls.append(None)
        return table()

    report = search(loss_fn, [permutation], max_evaluations=budget)
    # One more before the search: the loss at the start.
    assert len(calls) - 1 == report.evaluations <= budget
    assert not report.is_local_optimum


def test_seconds_are_bounded():
    permutation, table = random_table(5, 0)

    def loss_fn():
        time.sleep(0.02)
        return table()

    assert search(loss_fn, [permutation], max_seconds=0.0).evaluations == 0
    report = search(loss_fn, [permutation], max_seconds=0.3)
    assert 1 <= report.evaluations <= 15
    assert not report.is_local_optimum
    assert report.loss_after <= report.loss_before


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize("last_call", [2, 7, 20])
def test_interrupted_search_leaves_the_best_that_was_found(error, last_call):
    permutation, table = random_table(5, 3)
    table.losses[(0, 1, 2, 3, 4)] = 3.0
    calls = []

    def loss_fn():
        calls.append(None)
        if len(calls) == last_call:
            raise error
        return table()

    with pytest.raises(error):
        search(loss_fn, [permutation])
    best, order = min(table.seen)
    assert best < 3.0 or last_call == 2
    np.testing.assert_array_equal(permutation.assignment, [order])
    assert_frozen([permutation])


def test_nan_moves_nothing():
    permutation = keras_comet.ExpertPermutation(3)
    permutation.assignment.assign([[2, 0, 1]])
    report = search(lambda: math.nan, [permutation])
    np.testing.assert_array_equal(permutation.assignment, [[2, 0, 1]])
    assert math.isnan(report.loss_after)
    assert (report.moves, report.is_local_optimum) == (0, False)


def test_candidates_with_nan_are_not_taken():
    permutation = keras_comet.ExpertPermutation(3)
    # The identity comes first; only the last order is a better number.
    table = Table(permutation, [1.0, *[math.nan] * 4, 0.5])
    report = search(table, [permutation])
    np.testing.assert_array_equal(permutation.assignment, [[2, 1, 0]])
    assert (report.loss_after, report.moves) == (0.5, 1)
    assert report.is_local_optimum


@pytest.mark.parametrize(
    ("kind", "num_permutations", "num_layers"),
    [("comet", 2, 1), ("top_k", 1, 2), ("hash", 1, 2)],
)
def test_several_permutations_end_at_a_pairwise_optimum(
    kind, num_permutations, num_layers
):
    problem = Planted(
        kind,
        5,
        0,
        batch=128,
        num_permutations=num_permutations,
        num_layers=num_layers,
    )
    loss_fn = tf.function(problem.loss)
    report = search(loss_fn, problem.permutations)
    assert report.is_local_optimum
    assert report.loss_after < 0.9 * report.loss_before
    assert_frozen(problem.permutations)
    assert_pairwise_optimum(
        problem.loss, problem.permutations, report.loss_after
    )


def test_every_evaluation_is_a_full_forward_pass():
    calls = collections.Counter()

    class Counted(keras.layers.Dense):
        def call(self, inputs):
            calls[self.name] += 1
            return super().call(inputs)

    permutations = [keras_comet.ExpertPermutation(3) for _ in range(2)]
    mixtures = [
        keras_comet.MixtureOfExperts(
            [Counted(4, "tanh") for _ in range(3)],
            keras_comet.TopKGate(3, permutation=permutation),
            dispatch="dense",
        )
        for permutation in permutations
    ]
    x = tf.constant(rows(16, 4))

    def loss_fn():
        return tf.reduce_mean((mixtures[1](mixtures[0](x)) - x) ** 2)

    loss_fn()
    calls.clear()
    report = search(loss_fn, permutations, max_evaluations=12)
    assert report.evaluations == 12
    # Once for the loss at the start.
    assert list(calls.values()) == [13] * 6
    np.testing.assert_allclose(report.loss_after, loss_fn(), rtol=1e-6)


def run_stacked(wrap=lambda loss_fn: loss_fn):
    problem = Planted("top_k", 4, 1, batch=64, num_layers=2)
    report = search(
        wrap(problem.loss), problem.permutations, max_evaluations=60
    )
    return problem, report


@pytest.mark.slow
def test_compiled_loss_is_searched_alike_and_deterministically():
    stacked = run_stacked()
    assert stacked[1].moves > 0
    runs = [run_stacked(tf.function) for _ in range(2)]
    for problem, report in runs:
        for found, expected in zip(
            orders_of(problem.permutations),
            orders_of(stacked[0].permutations),
            strict=True,
        ):
            np.testing.assert_array_equal(found, expected)
        np.testing.assert_allclose(
            report.loss_after, stacked[1].loss_after, rtol=1e-4, atol=1e-9
        )
    for name in ("loss_before", "loss_after", "moves", "evaluations"):
        assert getattr(runs[0][1], name) == getattr(runs[1][1], name)


def test_first_order_ranking_finds_a_linear_optimum_at_once():
    cost = np.random.default_rng(0).normal(size=(6, 6)).astype("float32")
    permutation = keras_comet.ExpertPermutation(6)

    def loss_fn():
        return tf.reduce_sum(permutation(tf.eye(6)[:, tf.newaxis]) * cost)

    best = min(
        cost[np.arange(6), list(order)].sum()
        for order in itertools.permutations(range(6))
    )
    # The loss with its gradient, then the assignment of that gradient.
    report = search(loss_fn, [permutation], max_evaluations=2)
    np.testing.assert_allclose(report.loss_after, best, rtol=1e-5)
    assert report.moves == 1


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda p: (lambda: 0.0, []), "nothing to search"),
        (lambda p: (lambda: 0.0, ["p"]), "list of ExpertPermutation.*'p'"),
        (lambda p: (lambda: tf.zeros(3), [p]), r"one number.*\(3,\)"),
    ],
)
def test_what_cannot_be_searched_raises(make, match):
    permutation = keras_comet.ExpertPermutation(3)
    with pytest.raises(ValueError, match=match):
        search(*make(permutation))


def test_equal_names_raise():
    permutations = [keras_comet.ExpertPermutation(3, name="p") for _ in "ab"]
    with pytest.raises(ValueError, match=r"different names.*\['p', 'p'\]"):
        search(lambda: 0.0, permutations)


def test_soft_permutation_raises():
    permutation = keras_comet.ExpertPermutation(3)
    permutation.frozen.assign(False)
    with pytest.raises(ValueError, match="is soft.*freeze"):
        search(lambda: 0.0, [permutation])

"""Verified local search over permutations of experts."""

import itertools
import math
import time
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple
from typing import TypeAlias

import numpy as np
import tensorflow as tf

from keras_comet._keras import tf_variable
from keras_comet.gates.expert_permutation import ExpertPermutation
from keras_comet.ops import linear_assignment
from keras_comet.ops.recall import recalling
from keras_comet.search.search_report import SearchReport
from keras_comet.search.sinkhorn_search import SinkhornSearch

# Candidates that are compared before the best of them is taken.
_COMPARED = 32

# Where no exchange improves, so many of those that came nearest are followed
# by a second one and a third: cycles of three or four experts.
_WIDTH = 4
_DEPTH = 2

# Rotations of three are sought among so many outputs at most.
_ROTATED = 64

# The descent: found to recover planted orders of 64 experts.
_DESCENT_STEPS = 200
_DESCENT_RATE = 0.1

# A smaller relative gain is rounding, not progress.
_SMALLEST_GAIN = 1e-6

_assign = tf.function(linear_assignment)

# What a search decides: one array of orders for each permutation.
Orders: TypeAlias = list[np.ndarray[Any, Any]]


class _Place(NamedTuple):
    """One of the orders: which permutation it belongs to, and which row."""

    permutation: int
    row: int


class _Found(NamedTuple):
    """Where a search is: orders, their loss, and the moves that led there."""

    orders: Orders
    loss: float
    moves: int


def exchange_search(
    loss_fn: Callable[[], Any],
    permutations: Sequence[ExpertPermutation],
    max_evaluations: int | None = None,
    max_seconds: float | None = None,
) -> SearchReport:
    """Exchanges experts as long as that lowers the loss, and no longer.

    1. The gradient of the loss with respect to each P says what every
       (output, expert) pair would change, to first order: `C`, one pass.
    2. Candidates, best first: the linear assignment of C, and all exchanges
       of two experts by their first-order gain.
    3. The true loss of each candidate is computed, a few at a time; the best
       that improves is taken, and the search goes on at 1.
    4. Where the most promising fail, rotations of three experts are tried.
       Then gradient descent on a soft P (`SinkhornSearch`) proposes other
       beginnings, one far away and one near, and the best end is kept. (Not
       where trying all exchanges is cheaper, as with up to 20 experts.)
    5. From there on all exchanges are tried. If none improves, the result is
       a local optimum. The few that came nearest are followed by a second and
       a third exchange; if one of those improves, on at 1.

    Deterministic. Between candidates only P changes, so that in eager code
    the gates and experts of this package run once for all of them.

    Args:
        loss_fn: function that returns the scalar loss of the current model
            on a search batch, the same each time. Call the model with
            `training=False`.
        permutations: list of `ExpertPermutation`, frozen.
        max_evaluations: int. Most candidates to try. Defaults to `None`: as
            many as it takes.
        max_seconds: float. Time after which no further candidate is tried.
            Defaults to `None`.

    Returns:
        A `SearchReport`. The permutations hold the best that was found, also
        when the search is interrupted.

    Raises:
        ValueError: If there is no permutation, one is not frozen, or the
            loss is no scalar.
    """
    _check_permutations(permutations)
    search = _Search(loss_fn, list(permutations), max_evaluations, max_seconds)
    with recalling():
        return search.run()


class _Search:
    """The state of one search: what it may still spend, and the orders."""

    def __init__(
        self,
        loss_fn: Callable[[], Any],
        permutations: list[ExpertPermutation],
        max_evaluations: int | None,
        max_seconds: float | None,
    ) -> None:
        self._loss_fn = loss_fn
        self._permutations = permutations
        self._places = [
            _Place(index, row)
            for index, permutation in enumerate(permutations)
            for row in range(permutation.num_permutations)
        ]
        self._max_evaluations = max_evaluations
        self._max_seconds = max_seconds
        # What the search leaves behind, also when it is interrupted.
        self._best = [np.array(each.assignment) for each in permutations]
        self._best_loss = math.inf
        self._evaluations = -1  # the loss at the start is no candidate's
        self._begin = time.monotonic()
        self._budget_ended = False
        self._is_local_optimum = False
        self._rejected: list[tuple[float, Orders]] = []

    def run(self) -> SearchReport:
        loss_before = self._best_loss = float(self._compute_loss())
        try:
            found = _Found(self._best, loss_before, 0)
            # Where trying all is cheap, that is all there is to do.
            if self._has_many_exchanges():
                found = self._climb(found, False)
                for near in (False, True):
                    if not math.isfinite(found.loss) or self._must_stop():
                        break
                    other = self._climb(self._descend(found, near), False)
                    if other.loss < found.loss:
                        found = other
            found = self._climb(found, True)
        finally:
            self._freeze(self._best)
        return SearchReport(
            loss_before=loss_before,
            loss_after=self._best_loss,
            moves=found.moves,
            evaluations=self._evaluations,
            is_local_optimum=self._is_local_optimum,
            seconds=time.monotonic() - self._begin,
        )

    def _has_many_exchanges(self) -> bool:
        """Whether trying all costs more than a descent."""
        counts = [
            math.comb(self._permutations[place.permutation].num_experts, 2)
            for place in self._places
        ]
        return sum(counts) > _DESCENT_STEPS

    def _climb(self, found: _Found, thorough: bool) -> _Found:
        """Takes moves until none improves, or the budget ends.

        Args:
            found: where to begin.
            thorough: bool. Whether to try all exchanges, or promising moves.
        """
        while math.isfinite(found.loss) and not self._must_stop():
            better = self._find_better(found, thorough)
            if better is None:
                break
            found = better
        return found

    def _find_better(self, found: _Found, thorough: bool) -> _Found | None:
        """The best of the first few candidates among which one improves."""
        self._is_local_optimum = False
        self._rejected = []
        for few in self._candidates(found.orders, thorough):
            better = self._try(few, found)
            if better is not None or self._budget_ended:
                return better
        return None

    def _try(
        self, candidates: Iterable[Orders], found: _Found
    ) -> _Found | None:
        """The best of the candidates, if it improves; notes the others."""
        better = None
        bound = found.loss - _SMALLEST_GAIN * abs(found.loss)
        for candidate in candidates:
            if self._must_stop():
                break
            value = self._evaluate(candidate)
            if value < bound:
                better, bound = candidate, value
            elif math.isfinite(value):
                self._rejected.append((value, candidate))
        if better is None:
            return None
        return _Found(better, bound, found.moves + 1)

    def _evaluate(self, orders: Orders) -> float:
        self._use(orders)
        value = float(self._compute_loss())
        if value < self._best_loss:
            self._best, self._best_loss = orders, value
        return value

    def _must_stop(self) -> bool:
        spent = time.monotonic() - self._begin
        if (
            self._max_evaluations is not None
            and self._evaluations >= self._max_evaluations
        ) or (self._max_seconds is not None and spent >= self._max_seconds):
            self._budget_ended = True
        return self._budget_ended

    def _candidates(
        self, orders: Orders, thorough: bool
    ) -> Iterator[list[Orders]]:
        """Yields neighbours of these orders, the most promising first."""
        costs = self._first_order_costs(orders)
        neighbours = self._neighbours(orders, costs)
        yield list(itertools.islice(neighbours, _COMPARED))
        yield list(self._rotations(orders, costs))
        if not thorough:
            return
        while few := list(itertools.islice(neighbours, _COMPARED)):
            yield few
        self._is_local_optimum = True
        yield from self._follow_nearest()

    def _follow_nearest(self) -> Iterator[list[Orders]]:
        """Yields neighbours of those that came nearest to an improvement."""
        for _ in range(_DEPTH):
            nearest = sorted(self._rejected, key=lambda each: each[0])[:_WIDTH]
            self._rejected = []
            for _, orders in nearest:
                costs = self._first_order_costs(orders)
                neighbours = self._neighbours(orders, costs)
                yield list(itertools.islice(neighbours, _COMPARED))

    def _neighbours(
        self, orders: Orders, costs: list[np.ndarray[Any, Any]]
    ) -> Iterator[Orders]:
        proposals = [_assign(cost).numpy() for cost in costs]
        if len(self._places) > 1:
            yield self._replace(orders, dict(enumerate(proposals)))
        for place, proposal in enumerate(proposals):
            yield self._replace(orders, {place: proposal})
        yield from self._exchanges(orders, costs)

    def _rotations(
        self, orders: Orders, costs: list[np.ndarray[Any, Any]]
    ) -> Iterator[Orders]:
        """Yields the rotations of three experts of most first-order gain."""
        rotations = []
        for place, cost in enumerate(costs):
            order = self._at(orders, place)
            # move[i, j]: what output i going to the expert of j changes.
            move = cost[:, order] - np.diag(cost[:, order])[:, np.newaxis]
            restless = np.argsort(move.min(axis=1))[:_ROTATED]
            move = move[np.ix_(restless, restless)]
            change = move[:, :, np.newaxis] + move + move.T[:, np.newaxis]
            index = np.arange(len(restless))
            i, j, k = np.ix_(index, index, index)
            # Each rotation once, and three different outputs.
            change = np.where((i < j) & (i < k) & (j != k), change, np.inf)
            best = np.argsort(change, axis=None)[:_COMPARED]
            rotations += [
                (change.flat[flat], place, restless[list(triple)])
                for flat in best
                if np.isfinite(change.flat[flat])
                for triple in [np.unravel_index(flat, change.shape)]
            ]
        rotations.sort(key=lambda each: each[0])
        for _, place, triple in rotations[:_COMPARED]:
            order = self._at(orders, place).copy()
            order[triple] = order[np.roll(triple, -1)]
            yield self._replace(orders, {place: order})

    def _descend(self, found: _Found, near: bool) -> _Found:
        """Goes where gradient descent on soft permutations ends.

        Args:
            found: where to begin.
            near: bool. Whether to begin half there, or spread out evenly.
        """
        self._use(found.orders)
        steps = tf.Variable(0, dtype=tf.int64, trainable=False)
        descent = SinkhornSearch(
            temperature=1.0,
            num_iterations=20,
            learning_rate=_DESCENT_RATE,
            search_steps=_DESCENT_STEPS,
            count_steps=lambda: tf.convert_to_tensor(steps),
        )
        descent.begin(
            self._permutations,
            [
                tf.Variable(tf.zeros(each.permutation_weights.shape))
                for each in self._permutations
            ],
            near=near,
        )
        for _ in range(_DESCENT_STEPS):
            if self._must_stop():
                return found
            descent.move_logits(self._compute_gradients())
            steps.assign_add(1)
            descent.move_permutations(self._permutations)
        orders = [np.array(each.assignment) for each in self._permutations]
        return _Found(orders, self._evaluate(orders), found.moves + 1)

    def _exchanges(
        self, orders: Orders, costs: list[np.ndarray[Any, Any]]
    ) -> Iterator[Orders]:
        """Yields all exchanges of two experts, by their first-order gain."""
        exchanges = []
        for place, cost in enumerate(costs):
            order = self._at(orders, place)
            outputs = np.arange(len(order))
            # cost[i, e]: what output i at expert e costs.
            here = cost[outputs, order]
            there = cost[:, order]
            change = there + there.T - here[:, np.newaxis] - here
            first, second = np.triu_indices(len(order), 1)
            exchanges += [
                (change[i, j], place, i, j)
                for i, j in zip(first, second, strict=True)
            ]
        exchanges.sort()
        for _, place, i, j in exchanges:
            order = self._at(orders, place).copy()
            order[[i, j]] = order[[j, i]]
            yield self._replace(orders, {place: order})

    def _at(self, orders: Orders, place: int) -> np.ndarray[Any, Any]:
        permutation, row = self._places[place]
        return orders[permutation][row]

    def _replace(
        self, orders: Orders, new: dict[int, np.ndarray[Any, Any]]
    ) -> Orders:
        orders = [order.copy() for order in orders]
        for place, order in new.items():
            permutation, row = self._places[place]
            orders[permutation][row] = order
        return orders

    def _use(self, orders: Orders) -> None:
        for permutation, order in zip(self._permutations, orders, strict=True):
            permutation.assignment.assign(order)

    def _freeze(self, orders: Orders) -> None:
        for permutation, order in zip(self._permutations, orders, strict=True):
            permutation.freeze(order)

    def _compute_loss(self) -> tf.Tensor:
        self._evaluations += 1
        loss = tf.convert_to_tensor(self._loss_fn())
        if loss.shape.rank != 0:
            raise ValueError(
                "`loss_fn` must return one number, the loss of the search "
                f"batch. Received: shape {loss.shape}. Average over it."
            )
        return loss

    def _first_order_costs(self, orders: Orders) -> list[np.ndarray[Any, Any]]:
        """The gradient of the loss with respect to each P, `(n, n)` each."""
        self._freeze(orders)
        for permutation in self._permutations:
            permutation.frozen.assign(False)
        gradients = self._compute_gradients()
        for permutation in self._permutations:
            permutation.frozen.assign(True)
        return [
            cost
            for gradient in gradients
            for cost in np.nan_to_num(gradient.numpy())
        ]

    def _compute_gradients(self) -> list[tf.Tensor]:
        # Under a distribution strategy, those of the first replica: a tape
        # cannot watch the others, which are equal, together with them.
        strategy = tf.distribute.get_strategy()
        variables = [
            strategy.experimental_local_results(
                tf_variable(each.permutation_weights)
            )[0]
            for each in self._permutations
        ]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(variables)
            loss = self._compute_loss()
        # A loss that is no function of P, to TensorFlow, ranks nothing.
        return tape.gradient(loss, variables, unconnected_gradients="zero")


def _check_permutations(permutations: Sequence[ExpertPermutation]) -> None:
    if not permutations:
        raise ValueError(
            "There is nothing to search: no permutation was given. Make the "
            "gates with `permutation=ExpertPermutation(num_experts)`."
        )
    for permutation in permutations:
        if not isinstance(permutation, ExpertPermutation):
            raise ValueError(
                "`permutations` must be a list of ExpertPermutation. "
                f"Received: {permutation!r}"
            )
        if not bool(tf.convert_to_tensor(permutation.frozen)):
            raise ValueError(
                f"The permutation {permutation.name!r} is soft, as another "
                "search is going on. Call its `freeze()` first."
            )

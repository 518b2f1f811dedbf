"""Verified local search over permutations of experts."""

import itertools
import math
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

import tensorflow as tf

from keras_comet.gates.expert_permutation import ExpertPermutation
from keras_comet.search.budget import Budget
from keras_comet.search.descent import DESCENT_STEPS
from keras_comet.search.descent import descend
from keras_comet.search.moves import Rows
from keras_comet.search.moves import neighbours
from keras_comet.search.moves import three_cycles
from keras_comet.search.objective import Objective
from keras_comet.search.search_report import SearchReport

# Candidates that are compared before the best of them is taken.
_BATCH = 32

# Where no swap improves, this many of the candidates that came nearest are
# followed by another swap, and this often: cycles of three or four experts.
_WIDTH = 4
_DEPTH = 2

# A smaller relative gain is rounding, not progress.
_SMALLEST_GAIN = 1e-6


def exchange_search(
    loss_fn: Callable[[], Any],
    permutations: Sequence[ExpertPermutation],
    max_evaluations: int | None = None,
    max_seconds: float | None = None,
) -> SearchReport:
    """Exchanges experts as long as that lowers the loss, and no longer.

    1. The gradient of the loss with respect to each P says what every
       (output, expert) pair would change, to first order: `C`, one pass.
    2. Candidates, best first: the linear assignment of C, and all swaps of
       two experts by their first-order gain.
    3. The true loss of each candidate is computed, a batch of candidates at a
       time; the best that improves is taken, and the search goes on at 1.
    4. Where the most promising fail, 3-cycles are tried. Then gradient
       descent on a soft P proposes other beginnings, one far away and one
       near, and the best end is kept. (Not where trying all swaps is cheaper,
       as with up to 20 experts.)
    5. From there on all swaps are tried. If none improves, the result is a
       local optimum. The candidates that came nearest are followed by a
       second and a third swap; if one of those improves, on at 1.

    Deterministic. Every loss is a call of `loss_fn`.

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
    budget = Budget(max_evaluations, max_seconds)
    objective = Objective(loss_fn, permutations, budget)
    return _ExchangeSearch(objective, budget).run()


class _State(NamedTuple):
    """Assignments, their loss, and the number of moves that led there."""

    rows: Rows
    loss: float
    moves: int


class _ExchangeSearch:
    """One run of `exchange_search`."""

    def __init__(self, objective: Objective, budget: Budget) -> None:
        self._objective = objective
        self._budget = budget
        self._is_local_optimum = False
        self._is_cut_short = False
        self._rejected: list[tuple[float, Rows]] = []

    def run(self) -> SearchReport:
        rows = self._objective.read_rows()
        start = _State(rows, self._objective.loss(rows), 0)
        self._budget.evaluations = 0  # the loss at the start is no candidate's
        self._best = start
        try:
            if math.isfinite(start.loss):
                self._improve(start)
        finally:
            self._objective.freeze(self._best.rows)
        return SearchReport(
            loss_before=start.loss,
            loss_after=self._best.loss,
            moves=self._best.moves,
            evaluations=self._budget.evaluations,
            is_local_optimum=self._is_local_optimum,
            seconds=self._budget.seconds,
        )

    def _improve(self, state: _State) -> None:
        num_swaps = sum(math.comb(len(row), 2) for row in state.rows)
        if num_swaps > DESCENT_STEPS:
            state = self._climb(state, try_all=False)
            for near in (False, True):
                end = self._climb(self._descend(state, near), try_all=False)
                if end.loss < state.loss:
                    state = end
        self._climb(state, try_all=True)

    def _descend(self, state: _State, near: bool) -> _State:
        rows = descend(self._objective, self._budget, state.rows, near)
        if rows is None:
            return state
        end = _State(rows, self._objective.loss(rows), state.moves + 1)
        if end.loss < self._best.loss:
            self._best = end
        return end

    def _climb(self, state: _State, try_all: bool) -> _State:
        """Takes moves until none improves, or the budget ends.

        Args:
            state: where to begin.
            try_all: bool. Whether to try all swaps, or promising moves only.
        """
        while math.isfinite(state.loss) and self._budget.allows():
            better = self._find_better(state, try_all)
            if better is None:
                break
            state = better
        return state

    def _find_better(self, state: _State, try_all: bool) -> _State | None:
        """Returns the best of the first candidates among which one improves."""
        self._is_local_optimum = False
        self._rejected = []
        for batch in self._batches(state.rows, try_all):
            better = self._take_best(batch, state)
            if better is not None or self._is_cut_short:
                return better
        if not try_all:
            return None
        self._is_local_optimum = True
        for batch in self._follow_rejected():
            better = self._take_best(batch, state)
            if better is not None or self._is_cut_short:
                return better
        return None

    def _batches(self, rows: Rows, try_all: bool) -> Iterator[Iterable[Rows]]:
        costs = self._objective.costs(rows)
        candidates = neighbours(rows, costs)
        yield itertools.islice(candidates, _BATCH)
        yield three_cycles(rows, costs, _BATCH)
        while try_all and (batch := list(itertools.islice(candidates, _BATCH))):
            yield batch

    def _follow_rejected(self) -> Iterator[Iterable[Rows]]:
        """Yields neighbours of those that came nearest to an improvement."""
        for _ in range(_DEPTH):
            nearest = sorted(self._rejected, key=lambda each: each[0])[:_WIDTH]
            self._rejected = []
            for _, rows in nearest:
                if not self._budget.allows():
                    return
                costs = self._objective.costs(rows)
                yield itertools.islice(neighbours(rows, costs), _BATCH)

    def _take_best(self, batch: Iterable[Rows], state: _State) -> _State | None:
        """Returns the best of a batch of candidates, if it improves."""
        better = None
        bound = state.loss - _SMALLEST_GAIN * abs(state.loss)
        for rows in batch:
            if not self._budget.allows():
                self._is_cut_short = True
                break
            loss = self._objective.loss(rows)
            if loss < bound:
                better, bound = _State(rows, loss, state.moves + 1), loss
                # Kept at once, as the search may be interrupted.
                if loss < self._best.loss:
                    self._best = better
            elif math.isfinite(loss):
                self._rejected.append((loss, rows))
        return better


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

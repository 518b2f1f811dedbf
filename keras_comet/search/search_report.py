"""The report of a search."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class SearchReport:
    """The result of `LocalSearchOptimizer.search`.

    Args:
        loss_before: float. The loss when the search began.
        loss_after: float. The loss when it ended, never larger.
        moves: int. Number of moves that were taken.
        evaluations: int. Number of times the loss was computed, gradients
            included, after the first.
        is_local_optimum: bool. Whether all swaps of two experts were tried,
            and none improves the loss any more.
        seconds: float. Duration of the search.
    """

    loss_before: float
    loss_after: float
    moves: int
    evaluations: int
    is_local_optimum: bool
    seconds: float

    @property
    def certified(self) -> bool:
        """The former name of `is_local_optimum`."""
        return self.is_local_optimum

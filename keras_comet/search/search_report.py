"""What a search did."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class SearchReport:
    """What `LocalSearchOptimizer.search` returns.

    Args:
        loss_before: float. The loss when the search began.
        loss_after: float. The loss when it ended, never larger.
        moves: int. Number of moves that were taken.
        evaluations: int. Number of times the loss was computed, gradients
            included, after the first.
        is_local_optimum: bool. Whether no exchange of two experts improves the
            loss any more, as all were tried.
        seconds: float. How long it took.
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

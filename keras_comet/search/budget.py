"""The budget of a search."""

import time


class Budget:
    """Counts evaluations of the loss and the time, and says when to stop.

    Args:
        max_evaluations: int or `None` for any number.
        max_seconds: float or `None` for any time, from now on.

    Attributes:
        evaluations: int. The evaluations so far.
    """

    def __init__(
        self, max_evaluations: int | None, max_seconds: float | None
    ) -> None:
        self._max_evaluations = max_evaluations
        self._max_seconds = max_seconds
        self._begin = time.monotonic()
        self.evaluations = 0

    @property
    def seconds(self) -> float:
        """Seconds since the search began."""
        return time.monotonic() - self._begin

    def allows(self, evaluations: int = 1) -> bool:
        """Whether the loss may be evaluated so many times more."""
        total = self.evaluations + evaluations
        return (
            self._max_evaluations is None or total <= self._max_evaluations
        ) and (self._max_seconds is None or self.seconds < self._max_seconds)

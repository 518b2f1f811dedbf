"""Times several functions side by side, in one process."""

import dataclasses
import statistics
import time
from collections.abc import Callable
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

# Shorter measurements are repeated, as the clock and Python disturb them.
_SHORTEST = 0.005

# What one comparison may take, and the rounds that it gets in any case.
_LONGEST = 20.0
_FEWEST_ROUNDS = 5


@dataclasses.dataclass(frozen=True)
class Timing:
    """Seconds of one call: quartiles over the rounds, and their number."""

    lower: float
    median: float
    upper: float
    rounds: int


def interleave(
    functions: Mapping[str, Callable[[], Any]],
    rounds: int,
    longest: float = _LONGEST,
) -> dict[str, Timing]:
    """Times every function once a round, each round in another order.

    Whatever disturbs the machine meets all functions alike, so that ratios of
    the medians hold where single times do not. Two calls come before, which
    trace and warm up.

    Args:
        functions: dict from name to a function without arguments, which
            returns when its work is done.
        rounds: int. Number of rounds.
        longest: float. Seconds after which no further round begins, but for
            the first five. Defaults to `20.0`.

    Returns:
        A dict from name to `Timing`.
    """
    repeats = {}
    for name, function in functions.items():
        function()
        seconds = _time(function, 1)
        repeats[name] = max(1, round(_SHORTEST / max(seconds, 1e-6)))
    samples: dict[str, list[float]] = {name: [] for name in functions}
    order = list(functions)
    rng = np.random.default_rng(0)
    begin = time.perf_counter()
    for done in range(rounds):
        late = time.perf_counter() - begin > longest
        if late and done >= _FEWEST_ROUNDS:
            break
        rng.shuffle(order)
        for name in order:
            samples[name].append(_time(functions[name], repeats[name]))
    return {name: summarize(seconds) for name, seconds in samples.items()}


def _time(function: Callable[[], Any], repeats: int) -> float:
    begin = time.perf_counter()
    for _ in range(repeats):
        function()
    return (time.perf_counter() - begin) / repeats


def summarize(seconds: list[float]) -> Timing:
    """Quartiles of the samples of one function."""
    lower, median, upper = np.quantile(seconds, [0.25, 0.5, 0.75])
    return Timing(float(lower), float(median), float(upper), len(seconds))


def fastest(timings: Mapping[str, Timing], *names: str) -> str:
    """The name, among those that were timed, of the smallest median."""
    timed = [name for name in names if name in timings]
    return min(timed, key=lambda name: timings[name].median)


def ratio(timings: Mapping[str, Timing], slow: str, fast: str) -> float:
    """How many times the one median is the other."""
    return timings[slow].median / timings[fast].median


def check_agreement(
    functions: Mapping[str, Callable[[], Any]], tolerance: float = 1e-4
) -> None:
    """Raises unless all functions return the same numbers.

    Args:
        functions: dict from name to a function without arguments, which
            returns a tensor or a list of them.
        tolerance: float. Allowed difference, relative to the largest number
            of the first function. Defaults to `1e-4`.

    Raises:
        ValueError: If one function returns something else than the first.
    """
    expected: list[np.ndarray] = []
    for name, function in functions.items():
        found = [np.asarray(x, "float32") for x in tf.nest.flatten(function())]
        expected = expected or found
        for ours, theirs in zip(found, expected, strict=True):
            scale = np.abs(theirs).max()
            difference = np.abs(ours - theirs).max() / scale
            if not difference <= tolerance:
                raise ValueError(
                    "All sides of a comparison must compute the same. "
                    f"Expected: what {next(iter(functions))!r} returns. "
                    f"Received: {name!r} differs by {difference:.1e} of the "
                    f"largest value, {scale:.2g}"
                )


def milliseconds(timing: Timing) -> float:
    """The median in milliseconds."""
    return 1e3 * timing.median


def median(values: list[float]) -> float:
    """The median of a list of numbers."""
    return statistics.median(values)

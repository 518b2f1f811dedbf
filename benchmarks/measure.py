"""Times several functions side by side, in one process."""

import dataclasses
import time
from collections.abc import Callable
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

# Shorter measurements are repeated, as the clock and Python disturb them.
_SHORTEST = 0.005

# What one comparison may take, and the rounds that it gets in any case.
_LONGEST = 10.0
_FEWEST_ROUNDS = 5


@dataclasses.dataclass(frozen=True)
class Timing:
    """Seconds of one call: quartiles over the rounds, and their number.

    Args:
        lower: float. First quartile.
        median: float.
        upper: float. Third quartile.
        processor: float. Median of the seconds of all processors, which a
            busy machine disturbs less.
        rounds: int.
    """

    lower: float
    median: float
    upper: float
    processor: float
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
        functions: dict from name to a function without arguments.
        rounds: int. Number of rounds.
        longest: float. Seconds after which no further round begins, but for
            the first five. Defaults to `10.0`.
    """
    repeats = {}
    for name, function in functions.items():
        function()
        seconds, _ = _time(function, 1)
        repeats[name] = max(1, round(_SHORTEST / max(seconds, 1e-6)))
    samples: dict[str, list[tuple[float, float]]] = {n: [] for n in functions}
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
    return {name: _summarize(each) for name, each in samples.items()}


def _time(function: Callable[[], Any], repeats: int) -> tuple[float, float]:
    """Seconds of a call: by the clock, and of all processors."""
    begin = time.perf_counter(), time.process_time()
    for _ in range(repeats):
        function()
    end = time.perf_counter(), time.process_time()
    return (end[0] - begin[0]) / repeats, (end[1] - begin[1]) / repeats


def _summarize(samples: list[tuple[float, float]]) -> Timing:
    seconds, processor = np.transpose(samples)
    lower, middle, upper = np.quantile(seconds, [0.25, 0.5, 0.75])
    return Timing(
        float(lower),
        float(middle),
        float(upper),
        float(np.median(processor)),
        len(samples),
    )


def fastest(timings: Mapping[str, Timing], *names: str) -> str:
    """Finds the name, among those that were timed, of the least median."""
    timed = [name for name in names if name in timings]
    return min(timed, key=lambda name: timings[name].median)


def compile_function(
    function: Callable[..., Any], **options: Any
) -> Callable[..., Any]:
    """Compiles a function as `fit` does, without AutoGraph, to trace less."""
    return tf.function(function, autograph=False, **options)


def bind(function: Callable[..., Any], *arguments: Any) -> Callable[[], Any]:
    """Makes a function without arguments that calls one with these."""
    return lambda: function(*arguments)


@dataclasses.dataclass(frozen=True)
class Ratio:
    """How many times one side takes what the other takes.

    Args:
        clock: float. Ratio of the medians.
        processor: float. The same of the seconds of all processors.
        rounds: int.
    """

    clock: float
    processor: float
    rounds: int


def ratio(timings: Mapping[str, Timing], slow: str, fast: str) -> Ratio:
    """Computes the ratio of two functions that were timed together."""
    return Ratio(
        timings[slow].median / timings[fast].median,
        timings[slow].processor / timings[fast].processor,
        timings[fast].rounds,
    )


def check_agreement(
    functions: Mapping[str, Callable[[], Any]], tolerance: float = 1e-4
) -> None:
    """Raises a `ValueError` unless all functions return the same numbers.

    Args:
        functions: dict from name to a function without arguments, which
            returns a tensor or a list of them.
        tolerance: float. Allowed difference, relative to the largest number
            of the first function. Defaults to `1e-4`.
    """
    expected: list[np.ndarray] = []
    for name, function in functions.items():
        numbers = [
            np.asarray(x, "float32") for x in tf.nest.flatten(function())
        ]
        expected = expected or numbers
        for ours, theirs in zip(numbers, expected, strict=True):
            scale = np.abs(theirs).max()
            difference = np.abs(ours - theirs).max() / scale
            if not difference <= tolerance:
                raise ValueError(
                    "All sides of a comparison must compute the same. "
                    f"Expected: what {next(iter(functions))!r} returns. "
                    f"Received: {name!r} differs by {difference:.1e} of the "
                    f"largest value, {scale:.2g}"
                )

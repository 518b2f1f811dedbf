"""Reusing what a computation returned when its input comes again."""

import contextlib
from collections.abc import Callable
from collections.abc import Iterator
from typing import Any
from typing import TypeVar

import tensorflow as tf

Result = TypeVar("Result")

# A layer that is called more often than this in one pass is computed anew.
_MOST_CALLS = 8

# Results by owner, of each `recalling()` that is open, innermost last.
_memories: list[dict[int, list[tuple[tf.Tensor, Any]]]] = []


@contextlib.contextmanager
def recalling() -> Iterator[None]:
    """Lets eager computations that ask `recall` reuse their results.

    For calling one model again and again on one batch while only what
    follows those computations changes.
    """
    _memories.append({})
    try:
        yield
    finally:
        _memories.pop()


def is_recalling() -> bool:
    """Whether a `recalling()` is open and the code here runs eagerly."""
    return bool(_memories) and tf.executing_eagerly()


def recall(
    owner: object, inputs: tf.Tensor, compute: Callable[[], Result]
) -> Result:
    """Returns `compute()`, or what it returned before for equal inputs.

    Args:
        owner: object that `compute` belongs to, a layer.
        inputs: tensor, all that `compute` depends on and that may differ.
        compute: function without arguments or side effects.

    Returns:
        The result; computed anew in graphs and outside of `recalling()`.
    """
    if not is_recalling():
        return compute()
    results = _memories[-1].setdefault(id(owner), [])
    for known, result in results:
        if (
            known.dtype == inputs.dtype
            and known.shape == inputs.shape
            and bool(tf.reduce_all(tf.equal(known, inputs)))
        ):
            return result
    result = compute()
    if len(results) < _MOST_CALLS:
        results.append((tf.identity(inputs), result))
    return result

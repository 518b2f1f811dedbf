"""A context around one training step of `Model.fit`."""

import contextlib
from collections.abc import Callable
from typing import Any


def run_next_train_step_within(
    model: Any, context: contextlib.AbstractContextManager[None]
) -> Callable[..., Any]:
    """Enters a context for the next training step, and leaves it right after.

    Keras tells callbacks nothing when an exception ends a training, which may
    come from the step, the data, validation, another callback or the
    keyboard. What is on within a step only is off after all of these.

    To be called in `on_train_batch_begin`.

    Args:
        model: Keras model, in a loop that calls `model.train_function`.
        context: context manager, entered once.

    Returns:
        What the next step is now, in the place of `model.train_function`.
    """
    train_function = model.train_function

    def run(*args: Any) -> Any:
        vars(model)["train_function"] = train_function
        with context:
            return train_function(*args)

    # No attribute of the model that Keras should track.
    vars(model)["train_function"] = run
    return run

"""A context around one training step of `Model.fit`."""

import contextlib
from typing import Any


class NextTrainStep:
    """Takes the place of a model's training step once, to run it in a context.

    Keras tells callbacks nothing when an exception ends a training, be it from
    the step, the data, validation, another callback or the keyboard. What is
    on within a step only is off after all of these.

    To be made in `on_train_batch_begin`.

    Args:
        model: Keras model, with a `train_function`.
        context: context manager for the step, used once.
    """

    def __init__(
        self, model: Any, context: contextlib.AbstractContextManager[None]
    ) -> None:
        self._model = model
        self._context = context
        self._train_function = model.train_function
        self._replace(self)

    def __call__(self, *args: Any) -> Any:
        self._replace(self._train_function)
        with self._context:
            return self._train_function(*args)

    def cancel(self) -> bool:
        """Gives the place back, and returns whether nobody has called."""
        is_waiting = self._model.train_function is self
        if is_waiting:
            self._replace(self._train_function)
        return is_waiting

    def _replace(self, train_function: Any) -> None:
        # Past Keras, which would track it as a part of the model.
        vars(self._model)["train_function"] = train_function

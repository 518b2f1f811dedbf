"""Data in every form that Keras takes, as arrays and tensors.

Keras 3 refuses NumPy strings, and both Kerases take a list in a dict for a
structure of its elements.
"""

import functools
import types
from collections.abc import Iterable
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from keras_comet._keras import keras

Signature = Mapping[str, tf.TensorSpec]


def convert_data(data: Any, signature: Signature) -> Any:
    """Converts what `fit` and the like take as `x`.

    Args:
        data: dict of inputs, generator or `PyDataset` of batches; anything
            else is returned as it is.
        signature: dict from feature name to spec.

    Returns:
        The same, of what `convert_batch` returns.
    """
    convert = functools.partial(convert_batch, signature=signature)
    if isinstance(data, types.GeneratorType):
        return (convert(batch) for batch in data)
    if isinstance(data, keras.utils.Sequence):
        return _ConvertedBatches(data, convert)
    return convert_inputs(data, signature)


def convert_batch(batch: Any, signature: Signature) -> tuple[Any, ...]:
    """Converts one batch of a generator, or validation data.

    Args:
        batch: dict of inputs, or tuple of it, labels and sample weights; the
            latter two may be left out.
        signature: dict from feature name to spec.

    Returns:
        A tuple of as many.
    """
    x, y, weights = keras.utils.unpack_x_y_sample_weight(batch)
    converted = (
        convert_inputs(x, signature),
        convert_labels(y),
        complete_weights(weights, y),
    )
    return tuple(each for each in converted if each is not None)


def convert_inputs(inputs: Any, signature: Signature) -> Any:
    """Converts the values of each feature.

    Args:
        inputs: dict from feature name to values; anything else is returned as
            it is.
        signature: dict from feature name to spec; `[None, None]` is the shape
            of a feature with any number of values in a row.

    Returns:
        A dict from feature name to array or tensor.

    Raises:
        ValueError: If values are neither all strings nor all numbers.
    """
    if not isinstance(inputs, Mapping):
        return inputs
    converted = {}
    for name, values in inputs.items():
        values = _unwrap(values)
        spec = signature.get(name, tf.TensorSpec([None]))
        try:
            if spec.shape.as_list() == [None, None] and _is_nested(values):
                # Ragged even if it need not be: all batches must be alike.
                values = tf.ragged.constant(list(values), spec.dtype)
            converted[name] = _to_array(
                values, none_is_nan=spec.dtype.is_floating
            )
        except (TypeError, ValueError) as error:
            found = np.asarray(values, dtype=object).flat
            raise ValueError(
                f"Feature {name!r} takes strings, or numbers. Received: the "
                f"types {sorted({type(each).__name__ for each in found})}. "
                "Replace missing ids by one of the same type, such as '' or 0."
            ) from error
    return converted


def convert_labels(labels: Any) -> Any:
    """Converts the labels, or sample weights, of each task.

    Args:
        labels: dict from task name to values; anything else is returned as
            it is.

    Returns:
        A dict from task name to array or tensor; `None` is NaN.
    """
    if not isinstance(labels, Mapping):
        return labels
    return {
        name: _to_array(_unwrap(values), none_is_nan=True)
        for name, values in labels.items()
    }


def check_weights(weights: Any, tasks: Iterable[str]) -> None:
    """Raises a ValueError if sample weights are of a task that is none."""
    unknown = set(weights) - set(tasks) if isinstance(weights, Mapping) else ()
    if unknown:
        raise ValueError(
            "`sample_weight` may name tasks alone. Expected: some of "
            f"{sorted(tasks)}. Received: {sorted(unknown)} as well"
        )


def complete_weights(weights: Any, labels: Any) -> Any:
    """Adds the sample weight 1 for tasks that have none.

    Args:
        weights: dict from task name to values; anything else is returned as
            it is.
        labels: dict from task name to labels.

    Returns:
        A dict from task name to array or tensor.
    """
    if not isinstance(weights, Mapping) or not isinstance(labels, Mapping):
        return weights
    check_weights(weights, labels)
    given = {name: each for name, each in weights.items() if each is not None}
    ones = {
        name: np.ones(len(values), "float32")
        for name, values in labels.items()
        if name not in given
    }
    return {**convert_labels(given), **ones}


def _unwrap(values: Any) -> Any:
    """The array of a pandas or polars column."""
    return values.to_numpy() if hasattr(values, "to_numpy") else values


def _to_array(values: Any, none_is_nan: bool) -> Any:
    if isinstance(values, (list, tuple)):
        # No dtype yet: NumPy would make a string of NaN among strings.
        values = np.asarray(values, dtype=object)
    if not isinstance(values, np.ndarray):
        return values
    kind = values.dtype.kind
    if kind in "US" or (kind == "O" and _has_strings(values)):
        return tf.constant(values, tf.string)
    if kind != "O":
        return values
    if none_is_nan and any(each is None for each in values.flat):
        return values.astype("float32")
    numbers = np.asarray(values.tolist())
    if numbers.dtype.kind not in "biuf":
        raise TypeError(f"{numbers.dtype} are no numbers")
    return numbers


def _is_nested(values: Any) -> bool:
    """Whether rows are lists, which may differ in length."""
    if isinstance(values, np.ndarray):
        return values.dtype.kind == "O" and values.ndim == 1
    return isinstance(values, (list, tuple))


def _has_strings(values: np.ndarray[Any, Any]) -> bool:
    return any(isinstance(each, (str, bytes)) for each in values.flat)


class _ConvertedBatches(keras.utils.Sequence):
    """A `PyDataset`, or `Sequence` of Keras 2, with converted batches."""

    def __init__(self, batches: Any, convert: Any) -> None:
        names = ("workers", "use_multiprocessing", "max_queue_size")
        # Keras 2 has these as arguments of `fit`.
        super().__init__(
            **{
                name: getattr(batches, name)
                for name in names
                if hasattr(batches, name)
            }
        )
        self._batches = batches
        self._convert = convert

    def __getitem__(self, index: int) -> Any:
        return self._convert(self._batches[index])

    def __len__(self) -> int:
        return len(self._batches)

    @property
    def num_batches(self) -> int | None:
        return self._batches.num_batches

    def on_epoch_begin(self) -> None:
        self._batches.on_epoch_begin()

    def on_epoch_end(self) -> None:
        self._batches.on_epoch_end()

"""What features and tasks columns of data suggest."""

from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from keras_comet._keras import keras
from keras_comet.models.categorical_feature import CategoricalFeature
from keras_comet.models.feature import Feature
from keras_comet.models.multi_categorical_feature import MultiCategoricalFeature
from keras_comet.models.numeric_feature import NumericFeature
from keras_comet.models.raw_data import convert_inputs
from keras_comet.models.raw_data import convert_labels
from keras_comet.models.task import Task


def infer_features(
    columns: Mapping[str, Any], given: Mapping[str, Feature], embedding_dim: int
) -> dict[str, Feature]:
    """Chooses a feature for each column.

    Args:
        columns: dict from name to the values of all rows.
        given: dict from name to feature, for columns that need no choice.
        embedding_dim: int. Width of embeddings.

    Returns:
        A dict from name to feature, in the order of the columns.

    Raises:
        ValueError: If a feature has no column, columns differ in length, or a
            column has no values to learn from.
    """
    unknown = sorted(set(given) - set(columns))
    if unknown or not columns:
        raise ValueError(
            "Each feature must have a column. Expected: some of "
            f"{sorted(columns)}. Received: {unknown} as well"
        )
    lengths = {name: _num_rows(values) for name, values in columns.items()}
    if len(set(lengths.values())) != 1 or not all(lengths.values()):
        raise ValueError(
            "All columns must have a value for each row, and there must be "
            f"rows. Received: {lengths}"
        )
    return {
        name: given.get(name) or _infer_feature(name, values, embedding_dim)
        for name, values in columns.items()
    }


def _infer_feature(name: str, column: Any, embedding_dim: int) -> Feature:
    # Lists of rows become ragged where any number of values is allowed.
    is_nested = _holds_rows(column)
    spec = tf.TensorSpec([None, None] if is_nested else [None], _dtype(column))
    values = convert_inputs({name: column}, {name: spec})[name]
    values = values.flat_values if is_nested else tf.convert_to_tensor(values)
    array = values.numpy()
    feature = None
    if array.ndim <= 2 and array.dtype.kind in "Oiu":
        several = is_nested or array.ndim == 2
        feature = _embed(array, several, embedding_dim)
    elif array.ndim <= 2 and not is_nested:
        feature = _normalize(np.asarray(array, "float64"))
    if feature is None:
        raise ValueError(
            f"Column {name!r} must hold ids (strings or integers, one or "
            "several in a row), or numbers that differ. Received: "
            f"{array.dtype} of shape {array.shape}, such as "
            f"{array[:3].tolist()}. Drop it, or say what to do with it: "
            f"features={{{name!r}: ...}}."
        )
    return feature


def _embed(ids: Any, several: bool, embedding_dim: int) -> Feature | None:
    """Embeds ids by those that there are; `None` if there are none."""
    vocabulary = np.unique(ids)
    if not several:
        return CategoricalFeature(vocabulary, embedding_dim)
    # What fills rows up is no id.
    vocabulary = vocabulary[vocabulary != (b"" if ids.dtype == object else 0)]
    if not vocabulary.size:
        return None
    return MultiCategoricalFeature(vocabulary, embedding_dim)


def _normalize(numbers: Any) -> Feature | None:
    """Normalizes numbers by their own mean and variance, if they have one."""
    numbers = np.where(np.isfinite(numbers), numbers, np.nan)
    is_missing = np.isnan(numbers)
    if is_missing.all(axis=0).any():
        return None
    variance = np.nanvar(numbers, axis=0)
    if not (variance > 0.0).all():
        return None
    return NumericFeature(
        np.nanmean(numbers, axis=0).tolist(),
        variance.tolist(),
        missing="indicator" if is_missing.any() else "mean",
    )


def _num_rows(column: Any) -> int:
    # A ragged tensor has no length.
    return int(column.shape[0]) if tf.is_tensor(column) else len(column)


def _holds_rows(column: Any) -> bool:
    """Whether there is a list or an array in each row."""
    if isinstance(column, tf.RaggedTensor):
        return True
    first = next(iter(column))
    is_array = isinstance(column, np.ndarray) and column.dtype.kind != "O"
    return not is_array and isinstance(first, (list, tuple, np.ndarray))


def _dtype(column: Any) -> tf.DType:
    """The type of the first value."""
    if isinstance(column, tf.RaggedTensor):
        return column.dtype
    flat: Iterable[Any] = column
    if _holds_rows(column):
        flat = (each for row in column for each in row)
    first = next((each for each in flat if each is not None), 0.0)
    return tf.as_dtype(np.asarray([first]).dtype)


def infer_tasks(labels: Mapping[str, Any], given: Sequence[Task]) -> list[Task]:
    """Chooses a loss for each column of labels.

    Args:
        labels: dict from task name to the labels of all rows.
        given: list of tasks, for labels that need no choice.

    Returns:
        A list of tasks, in the order of the labels.

    Raises:
        ValueError: If a task has no labels, or labels are not numbers.
    """
    by_name = {task.name: task for task in given}
    unknown = sorted(set(by_name) - set(labels))
    if unknown or not labels:
        raise ValueError(
            "Each task must have labels. Expected: some of "
            f"{sorted(labels)}. Received: {unknown} as well"
        )
    converted = convert_labels(labels)
    return [
        by_name.get(name) or _infer_task(name, converted[name])
        for name in labels
    ]


def _infer_task(name: str, labels: Any) -> Task:
    array = np.asarray(labels)
    is_column = array.ndim == 1 or array.shape[1:] == (1,)
    if array.dtype.kind not in "biuf" or not is_column:
        raise ValueError(
            f"The labels {name!r} must be numbers, one in each row. Received: "
            f"{array.dtype} of shape {array.shape}. Number classes, and pass "
            f"tasks=[Task({name!r}, 'sparse_categorical_crossentropy', "
            "units=...)]."
        )
    numbers = array.astype("float64")
    is_missing = np.isnan(numbers)
    missing_label = float("nan") if is_missing.any() else None
    known = numbers[~is_missing]
    if not known.size:
        raise ValueError(f"The labels {name!r} are all missing. Drop the task.")
    if np.isin(known, (0.0, 1.0)).all():
        return Task(
            name,
            "binary_crossentropy",
            metrics=[keras.metrics.AUC(name="auc")],
            activation="sigmoid",
            missing_label=missing_label,
        )
    return Task(
        name,
        "mse",
        metrics=[keras.metrics.RootMeanSquaredError(name="rmse")],
        # As large as that of other tasks, for the mean as prediction: 1.
        weight=float(1.0 / (known.var() or 1.0)),
        missing_label=missing_label,
    )

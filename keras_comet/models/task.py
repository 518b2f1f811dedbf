"""One task of a multi-task model."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from keras_comet._keras import keras
from keras_comet._keras import serializable


@serializable
@dataclasses.dataclass(frozen=True)
class Task:
    """Describes what a task predicts, and how it is trained and judged.

    Args:
        name: str. Key of the labels and of the predictions.
        loss: str, function or Keras `Loss`: gives one value per example.
        metrics: list of str or Keras `Metric`. Defaults to `()`.
        weight: float. Weight of the task's loss in the sum. Defaults to
            `1.0`.
        activation: activation of the prediction. Defaults to `None`.
        units: int. Width of the prediction. Defaults to `1`.
        missing_label: float. A label with this value (NaN is one) is
            missing: the example counts neither in the loss nor in the
            metrics. Defaults to `None`: no label is missing.
        only_if: str. Name of another task: only examples whose label of that
            task is 1 count for this one, such as conversions of those who
            clicked. Defaults to `None`: all do.
        times: str. Name of a task before this one, by whose prediction the
            tower's is multiplied. Two sigmoids so give p(click and buy) =
            p(click) p(buy given click), which trains on all examples
            ([Ma et al., 2018](https://arxiv.org/abs/1804.07931), ESMM).
            Defaults to `None`: the tower predicts alone.

    Raises:
        ValueError: If the weight is negative, `units` is below 1, or the task
            refers to itself.

    Example:

    ```python
    import keras_comet

    keras_comet.Task(
        "rating", loss="mse", metrics=["mae"], weight=0.1, missing_label=0.0
    )
    ```
    """

    name: str
    loss: Any
    metrics: Sequence[Any] = ()
    weight: float = 1.0
    activation: Any = None
    units: int = 1
    missing_label: float | None = None
    only_if: str | None = None
    times: str | None = None

    def __post_init__(self) -> None:
        if not self.weight >= 0.0 or self.units < 1:
            raise ValueError(
                "A task needs a weight of at least 0 and at least 1 unit. "
                f"Received: weight={self.weight}, units={self.units} for task "
                f"{self.name!r}"
            )
        if self.name in (self.only_if, self.times):
            raise ValueError(
                "`only_if` and `times` must name another task. Received: "
                f"only_if={self.only_if!r}, times={self.times!r} for task "
                f"{self.name!r}"
            )

    def positive_mask(self, labels: tf.Tensor) -> tf.Tensor:
        """Returns the mask of the examples that have a label, which is 1.

        Args:
            labels: tensor `(batch,)` or `(batch, units)`.

        Returns:
            A bool tensor `(batch,)`.
        """
        is_one = tf.equal(labels, tf.ones_like(labels))
        rest = list(range(1, labels.shape.rank))
        return self.label_mask(labels) & tf.reduce_all(is_one, axis=rest)

    def label_mask(self, labels: tf.Tensor) -> tf.Tensor:
        """Returns the mask of the examples that have a label.

        Args:
            labels: tensor `(batch,)` or `(batch, units)`.

        Returns:
            A bool tensor `(batch,)`.

        Raises:
            ValueError: If labels of this dtype cannot be missing.
        """
        self._check_dtype(labels.dtype)
        if self.missing_label is None:
            missing = tf.zeros_like(labels, tf.bool)
        elif math.isnan(self.missing_label):
            missing = tf.math.is_nan(labels)
        else:
            missing = tf.equal(
                labels, tf.cast(self.missing_label, labels.dtype)
            )
        rest = list(range(1, labels.shape.rank))
        return ~tf.reduce_all(missing, axis=rest)

    def _check_dtype(self, dtype: tf.DType) -> None:
        """Refuses what a cast would turn into another label."""
        if self.missing_label is None or dtype.is_floating:
            return
        with np.errstate(invalid="ignore"):
            label = np.asarray(self.missing_label).astype(dtype.as_numpy_dtype)
        if label != self.missing_label:
            raise ValueError(
                f"Labels of task {self.name!r} are of dtype {dtype.name}, "
                f"which cannot hold missing_label={self.missing_label}. Cast "
                "the labels to float32, or mark missing ones by another value."
            )

    def get_config(self) -> dict[str, Any]:
        """Returns the JSON form, for saving."""
        return {
            **dataclasses.asdict(
                dataclasses.replace(self, loss=None, metrics=())
            ),
            "loss": _serialize(self.loss),
            "metrics": [_serialize(metric) for metric in self.metrics],
            "activation": _serialize(self.activation),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Task":
        """Rebuilds a task from what `get_config` returned."""
        return cls(
            **{
                **config,
                "loss": _deserialize(config["loss"]),
                "metrics": [_deserialize(each) for each in config["metrics"]],
                "activation": _deserialize(config["activation"]),
            }
        )


def _serialize(value: Any) -> Any:
    """Names stay names; objects become configs."""
    if value is None or isinstance(value, str):
        return value
    return keras.saving.serialize_keras_object(value)


def _deserialize(value: Any) -> Any:
    if isinstance(value, dict):
        return keras.saving.deserialize_keras_object(value)
    return value

"""A numeric feature: raw numbers to normalized ones."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from keras_comet._keras import serializable
from keras_comet.models.feature import Feature

_POLICIES = ("indicator", "mean", "error")


@serializable
class NumericFeature(Feature):
    """Normalizes numbers, `(x - mean) / sqrt(variance)`, and fills gaps.

    A number is missing if it is NaN or infinite, or becomes so in the
    precision of the layer: one of them would reach every weight of a model in
    one step. Training and serving treat it alike.

    Args:
        mean: float, or a list of float for a vector. Defaults to `0.0`.
        variance: float, or a list of float. Defaults to `1.0`.
        missing: str. What becomes of a missing number: `"indicator"` puts the
            mean in its place, and adds a column that is 1 where a number is
            missing and 0 elsewhere; `"mean"` adds no column, and is the better
            choice if training data lacks no number, as the weights of the
            column would not be trained; `"error"` refuses it, and keeps a
            model from being compiled with XLA, which would not see it.
            Defaults to `"indicator"`.

    Call arguments:
        values: tensor of numbers.

    Input shape:
        `(batch, size)`, size the length of `mean`; `(batch,)` if that is 1.

    Output shape:
        `(batch, 2 * size)` with indicators, the normalized numbers first;
        else `(batch, size)`.

    Raises:
        ValueError: If `mean` and `variance` differ in length or are not
            finite, a variance is not above 0, `missing` is another word, or
            values have another shape or, in eager mode, are refused; in a
            graph, that is TensorFlow's `InvalidArgumentError`.

    Example:

    ```python
    import numpy as np
    import keras_comet

    ages = np.array([20.0, 30.0, 40.0], "float32")
    feature = keras_comet.NumericFeature(ages.mean(), ages.var())
    feature(np.array([20.0, np.nan], "float32"))  # [[-1.22, 0.], [0., 1.]]
    ```
    """

    remedy = (
        "For a vector in each row, give `mean` and `variance` one entry for "
        "each of its values."
    )

    def __init__(
        self,
        mean: float | Sequence[float] = 0.0,
        variance: float | Sequence[float] = 1.0,
        missing: str = "indicator",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        center = np.atleast_1d(np.asarray(mean, "float32"))
        spread = np.atleast_1d(np.asarray(variance, "float32"))
        if center.shape != spread.shape or center.ndim != 1:
            raise ValueError(
                "`mean` and `variance` must be numbers or lists of the same "
                f"length. Received: mean={mean}, variance={variance}"
            )
        if not np.isfinite([center, spread]).all():
            raise ValueError(
                "`mean` and `variance` must be finite; compute them without "
                "missing values, as by `numpy.nanmean` and `numpy.nanvar`. "
                f"Received: mean={mean}, variance={variance}"
            )
        if not (spread > 0.0).all():
            raise ValueError(
                "`variance` must be above 0; drop a constant feature. "
                f"Received: variance={variance}"
            )
        if missing not in _POLICIES:
            raise ValueError(
                f"`missing` must be one of {_POLICIES}. "
                f"Received: missing={missing!r}"
            )
        self.mean = center.tolist()
        self.variance = spread.tolist()
        self.missing = missing
        # Keras 3 would compile with XLA, which leaves assertions out.
        self.supports_jit = missing != "error"

    @property
    def input_spec_for_serving(self) -> tf.TensorSpec:
        """What a served model expects for this feature."""
        size = len(self.mean)
        return tf.TensorSpec([None] if size == 1 else [None, size], tf.float32)

    def build(self, input_shape: Any = None) -> None:
        self.built = True

    def call(self, values: tf.Tensor) -> tf.Tensor:
        values = self.as_rows(values, len(self.mean))
        if values.dtype == tf.string:
            raise ValueError(
                f"{self.title} takes numbers. Received: strings. Convert them "
                "before, or use a CategoricalFeature."
            )
        values = tf.cast(values, self.variable_dtype)
        mean = tf.constant(list(self.mean), values.dtype)
        spread = tf.constant(np.sqrt(self.variance), values.dtype)
        normalized = tf.cast((values - mean) / spread, self.compute_dtype)
        is_known = tf.math.is_finite(normalized)
        if self.missing == "error":
            with tf.control_dependencies([self._refuse_missing(is_known)]):
                return tf.identity(normalized)
        filled = tf.where(is_known, normalized, tf.zeros_like(normalized))
        if self.missing == "mean":
            return filled
        return tf.concat([filled, tf.cast(~is_known, filled.dtype)], axis=-1)

    def _refuse_missing(self, is_known: tf.Tensor) -> Any:
        message = (
            f"{self.title} has missing='error', and a value that is NaN or "
            "infinite. Fill it before, or choose missing='indicator'"
        )
        rows = tf.where(~tf.reduce_all(is_known, axis=-1))[:, 0]
        if tf.executing_eagerly() and len(rows):
            raise ValueError(f"{message}. Received: in row {int(rows[0])}")
        return tf.debugging.Assert(tf.reduce_all(is_known), [message, rows])

    def compute_output_shape(self, input_shape: Any) -> tuple[Any, ...]:
        columns = 2 if self.missing == "indicator" else 1
        return (tuple(input_shape)[0], columns * len(self.mean))

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "mean": list(self.mean),
            "variance": list(self.variance),
            "missing": self.missing,
        }

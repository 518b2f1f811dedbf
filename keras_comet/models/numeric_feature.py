"""A numeric feature: raw numbers to normalized ones."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from keras_comet._keras import serializable
from keras_comet.models.feature import Feature


@serializable
class NumericFeature(Feature):
    """Normalizes numbers: `(x - mean) / sqrt(variance)`.

    Args:
        mean: float, or a list of float for a vector. Defaults to `0.0`.
        variance: float, or a list of float. Defaults to `1.0`.

    Call arguments:
        values: tensor of numbers.

    Input shape:
        `(batch, size)`, size the length of `mean`; `(batch,)` if that is 1.

    Output shape:
        `(batch, size)`.

    Raises:
        ValueError: If `mean` and `variance` differ in length, a variance is
            not above 0, or values have another shape.

    Example:

    ```python
    import numpy as np
    import keras_comet

    ages = np.array([20.0, 30.0, 40.0], "float32")
    feature = keras_comet.NumericFeature(ages.mean(), ages.var())
    feature(ages)  # [[-1.22], [0.], [1.22]]
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
        if not (spread > 0.0).all():
            raise ValueError(
                "`variance` must be above 0; drop a constant feature. "
                f"Received: variance={variance}"
            )
        self.mean = center.tolist()
        self.variance = spread.tolist()

    @property
    def input_spec_for_serving(self) -> tf.TensorSpec:
        """What a served model expects for this feature."""
        size = len(self.mean)
        return tf.TensorSpec([None] if size == 1 else [None, size], tf.float32)

    def build(self, input_shape: Any = None) -> None:
        self.built = True

    def call(self, values: tf.Tensor) -> tf.Tensor:
        values = self.as_rows(values, len(self.mean))
        values = tf.cast(values, self.compute_dtype)
        mean = tf.constant(list(self.mean), values.dtype)
        spread = tf.constant(np.sqrt(self.variance), values.dtype)
        return (values - mean) / spread

    def compute_output_shape(self, input_shape: Any) -> tuple[Any, ...]:
        return (tuple(input_shape)[0], len(self.mean))

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "mean": list(self.mean),
            "variance": list(self.variance),
        }

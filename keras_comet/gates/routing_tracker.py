"""What a gate did on recent training rows."""

import math
from typing import Any

import numpy as np
import tensorflow as tf

from keras_comet._keras import aggregation
from keras_comet._keras import keras
from keras_comet.ops import static_cond
from keras_comet.regularizers.batch_mean import batch_mean

# Averages look back over about ten batches.
_MOMENTUM = 0.9


class RoutingTracker(keras.layers.Layer):
    """Keeps moving averages of how sparse and how even a gate routes.

    The gate updates it in every training call, as `BatchNormalization` does
    its averages. Rows with NaN are left out.

    Args:
        num_experts: int. Number of experts of the gate.

    Attributes:
        recent_cardinality: variable `(num_experts,)`: shares of rows with 1,
            2, ... selected experts. They sum to one once many batches came,
            to less before.
        recent_usage: variable `(num_experts,)`: expert usage of these rows.
    """

    def __init__(self, num_experts: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_experts = num_experts

    def build(self, input_shape: Any = None) -> None:
        self.recent_cardinality = self._add_average("recent_cardinality")
        self.recent_usage = self._add_average("recent_usage")
        self.built = True

    def _add_average(self, name: str) -> Any:
        return self.add_weight(
            name=name,
            shape=(self.num_experts,),
            dtype="float32",
            initializer="zeros",
            trainable=False,
            aggregation=aggregation("mean"),
        )

    def update(self, routing_weights: tf.Tensor) -> None:
        """Takes in the rows of a training batch.

        Args:
            routing_weights: float tensor `(..., num_experts)`.
        """
        rows = tf.stop_gradient(
            tf.reshape(
                tf.cast(routing_weights, tf.float32), [-1, self.num_experts]
            )
        )
        usage = tf.reduce_mean(rows, axis=0)
        cardinality, usage = static_cond(
            tf.reduce_all(tf.math.is_finite(usage)),
            lambda: (self._share_by_cardinality(rows), usage),
            lambda: self._leave_out_bad(rows),
        )
        for average, value in (
            (self.recent_cardinality, cardinality),
            (self.recent_usage, usage),
        ):
            recent = tf.convert_to_tensor(average)
            average.assign(recent + (1.0 - _MOMENTUM) * (value - recent))

    def _leave_out_bad(self, rows: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns cardinality and usage, for an empty batch as well."""
        is_finite = tf.reduce_all(tf.math.is_finite(rows), axis=-1)
        rows = tf.where(is_finite[:, tf.newaxis], rows, 0.0)
        return self._share_by_cardinality(rows), batch_mean(rows, axis=0)

    def _share_by_cardinality(self, rows: tf.Tensor) -> tf.Tensor:
        """Returns the shares of rows with 1, 2, ... weights above zero."""
        # For weights that are not negative, the cheapest way to count.
        cardinality = tf.reduce_sum(tf.sign(rows), axis=-1)
        # A row of zeros counts nowhere.
        num_rows = tf.math.unsorted_segment_sum(
            tf.ones_like(cardinality),
            tf.cast(cardinality, tf.int32) - 1,
            self.num_experts,
        )
        return tf.math.divide_no_nan(
            num_rows, tf.cast(tf.size(cardinality), tf.float32)
        )

    def statistics(self, cap: int) -> dict[str, float]:
        """Describes recent rows in a few numbers.

        | key | meaning |
        |---|---|
        | `cardinality` | mean number of selected experts |
        | `within_cap` | share of rows with at most `cap` of them |
        | `excess` | how far rows are above `cap`: 0 for a row within it, |
        | | 1 for one with all experts, logarithmic between |
        | `normalized_entropy` | entropy of the usage / `log(num_experts)` |
        | `least_usage` | usage of the least used expert |

        Args:
            cap: int. The number of experts to count rows within.

        Returns:
            A dict from the keys above to float; NaN before the first batch.
        """
        shares = _read_shares(self.recent_cardinality)
        usage = _read_shares(self.recent_usage)
        counts = np.arange(1, self.num_experts + 1)
        return {
            "cardinality": float(shares @ counts),
            "within_cap": float(shares[:cap].sum()),
            "excess": _excess(shares, cap),
            "normalized_entropy": _normalized_entropy(usage),
            "least_usage": float(usage.min()),
        }


def _read_shares(average: Any) -> np.ndarray[Any, Any]:
    """Reads shares, and makes them sum to one; NaN if nothing came yet."""
    values = tf.convert_to_tensor(average).numpy().astype("float64")
    total = values.sum()
    return values / total if total > 0.0 else np.full_like(values, np.nan)


def _excess(shares: np.ndarray[Any, Any], cap: int) -> float:
    num_experts = len(shares)
    if cap >= num_experts:
        return float(0.0 * shares.sum())
    over = np.log(np.arange(1, num_experts + 1) / cap)
    return float(shares @ np.maximum(over, 0.0) / math.log(num_experts / cap))


def _normalized_entropy(usage: np.ndarray[Any, Any]) -> float:
    if len(usage) == 1:
        return float(usage[0])
    positive = usage[usage != 0.0]
    entropy = -np.sum(positive * np.log(positive))
    return float(entropy / math.log(len(usage)))

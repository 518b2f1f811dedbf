"""What gates with smooth-steps share: a width, from soft down to hard."""

import contextlib
from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from keras_comet import regularizers
from keras_comet._keras import aggregation
from keras_comet._keras import keras
from keras_comet.gates.base import Gate
from keras_comet.gates.base import check_gamma
from keras_comet.gates.base import check_k
from keras_comet.regularizers.batch_mean import batch_mean

# Root mean squares of routing inputs at which the default kernels start
# splits undecided, with a gradient: from embeddings to batch-normalized.
_SMALLEST_SCALE = 0.02
_LARGEST_SCALE = 2.0

# The records look back over about ten batches.
_MOMENTUM = 0.9


class SmoothStepGate(Gate):
    """Base class of gates whose selectors settle as smooth-steps saturate.

    The steps are `gamma * gamma_scale` wide. At a scale of gamma of 0 the
    gate routes hard: each selector keeps one expert. The width is a variable,
    so that it can change in a training that is traced already, is saved, and
    is the same on all replicas.

    The first training batch measures the scale of the routing inputs, if the
    kernels have their default initializer, which counts on inputs of about
    unit variance. From then on the kernels are divided by `input_scale`, as
    if the inputs were: it brings their root mean square into the range from
    0.02 to 2, and is 1 if it is there already.

    Args:
        num_experts: int. Number of experts, at least 1.
        k: int. Number of selectors.
        gamma: float. Width of the smooth-step.
        hard_routing: bool. Whether to start at a scale of gamma of 0.
        kernel_initializer: initializer of the kernels, or `None`.
        bias_initializer: initializer of the biases, or `None`.
        **kwargs: what `Gate` takes.

    Attributes:
        gamma_scale: variable `()`, 1 at first, 0 for hard routing.
        aux_loss_weight: variable `()`. Weight of a load balance penalty on
            top of `load_balance_weight`, while the gate is steered.
        input_scale: variable `()`, 0 until it is measured.
        recent_cardinality: variable `(num_experts,)`: shares of recent
            training rows with 1, 2, ... selected experts, while steered.
        recent_usage: variable `(num_experts,)`: expert usage of these rows.
    """

    def __init__(
        self,
        num_experts: int,
        k: int,
        gamma: float,
        hard_routing: bool,
        kernel_initializer: Any,
        bias_initializer: Any,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_experts, **kwargs)
        self.k = check_k(k, num_experts)
        self.gamma = check_gamma(gamma)
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.bias_initializer = keras.initializers.get(bias_initializer)
        self.num_selectors = k
        # Whether training records what a `CardinalityTarget` steers by.
        self.is_steered = False
        self._starts_hard = bool(hard_routing)
        self._constants: tuple[float, float] | None = None

    def build(self, input_shape: Any) -> None:
        self.gamma_scale = self._add_state(
            "gamma_scale", (), 0.0 if self._starts_hard else 1.0
        )
        self.aux_loss_weight = self._add_state("aux_loss_weight", (), 0.0)
        self.input_scale = self._add_state("input_scale", (), 0.0)
        self.recent_cardinality = self._add_state(
            "recent_cardinality", (self.num_experts,), 0.0
        )
        self.recent_usage = self._add_state(
            "recent_usage", (self.num_experts,), 0.0
        )
        super().build(input_shape)

    def _add_state(
        self, name: str, shape: tuple[int, ...], value: float
    ) -> Any:
        return self.add_weight(
            name=name,
            shape=shape,
            dtype="float32",
            initializer=keras.initializers.Constant(value),
            trainable=False,
            aggregation=aggregation("mean"),
        )

    @property
    def hard_routing(self) -> bool:
        """Whether each selector keeps one expert only."""
        if self._constants is not None:
            return self._constants[0] == 0.0
        if not self.built:
            return self._starts_hard
        with tf.init_scope():
            return float(tf.convert_to_tensor(self.gamma_scale)) == 0.0

    @hard_routing.setter
    def hard_routing(self, value: bool) -> None:
        if not self.built:
            self._starts_hard = bool(value)
        elif value != self.hard_routing:
            self.gamma_scale.assign(0.0 if value else 1.0)

    @contextlib.contextmanager
    def constant_routing(self, hard: bool) -> Iterator[None]:
        """Makes the state a constant of every graph traced meanwhile.

        Args:
            hard: bool. Whether to route hard even if the gate does not.
        """
        width = float(tf.convert_to_tensor(self.gamma_scale))
        scale = float(tf.convert_to_tensor(self.input_scale))
        self._constants = (0.0 if hard else self.gamma * width, scale or 1.0)
        try:
            yield
        finally:
            self._constants = None

    def choose(
        self,
        soft: Callable[[Any], tf.Tensor],
        hard: Callable[[], tf.Tensor],
    ) -> tf.Tensor:
        """Routes soft, or hard at a scale of gamma of 0.

        Args:
            soft: function of the width of the smooth-step, above 0.
            hard: function of nothing.

        Returns:
            What one of them returns.
        """
        if self._constants is not None:
            width = self._constants[0]
            return soft(width) if width > 0.0 else hard()
        width = self.gamma * tf.convert_to_tensor(self.gamma_scale)
        # A copy made in the branch: gradients of tf.cond that are taken outside
        # of its function do not find what comes from outside of the branch.
        return tf.cond(width > 0.0, lambda: soft(tf.identity(width)), hard)

    def call(
        self, routing_inputs: tf.Tensor, training: bool | None = None
    ) -> tf.Tensor:
        training = training is not None and bool(training)
        # Strings are refused where they would be multiplied.
        if (
            training
            and self._counts_on_scale()
            and routing_inputs.dtype != tf.string
        ):
            scale = tf.convert_to_tensor(self.input_scale)
            self.input_scale.assign(
                tf.cond(
                    scale > 0.0,
                    lambda: scale,
                    lambda: _measure(routing_inputs),
                )
            )
        routing_weights = super().call(routing_inputs, training=training)
        if training and self.is_steered:
            self.add_loss(
                tf.convert_to_tensor(self.aux_loss_weight)
                * tf.cast(
                    regularizers.load_balance(routing_weights), tf.float32
                )
            )
            self._record(routing_weights)
        return routing_weights

    def _counts_on_scale(self) -> bool:
        return self.kernel_initializer is None

    def rescaled(self, kernel: Any) -> tf.Tensor:
        """A kernel that brings routing inputs to the scale it counts on.

        Dividing it costs less than dividing the inputs.
        """
        kernel = tf.convert_to_tensor(kernel)
        if not self._counts_on_scale():
            return kernel
        if self._constants is not None:
            scale = self._constants[1]
            return kernel if scale == 1.0 else kernel / scale
        scale = tf.convert_to_tensor(self.input_scale)
        return kernel / tf.cast(tf.where(scale > 0.0, scale, 1.0), kernel.dtype)

    def _record(self, routing_weights: tf.Tensor) -> None:
        rows = tf.stop_gradient(
            tf.reshape(
                tf.cast(routing_weights, tf.float32), [-1, self.num_experts]
            )
        )
        is_finite = tf.reduce_all(tf.math.is_finite(rows), axis=-1)
        rows = tf.where(is_finite[:, tf.newaxis], rows, 0.0)
        # A row of zeros counts nowhere.
        count = tf.math.count_nonzero(rows, axis=-1)
        for record, values in (
            (self.recent_cardinality, tf.one_hot(count - 1, self.num_experts)),
            (self.recent_usage, rows),
        ):
            recent = tf.convert_to_tensor(record)
            news = batch_mean(values, axis=0) - recent
            record.assign(recent + (1.0 - _MOMENTUM) * news)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "k": self.k,
            "gamma": self.gamma,
            "hard_routing": self.hard_routing,
            "kernel_initializer": keras.initializers.serialize(
                self.kernel_initializer
            ),
            "bias_initializer": keras.initializers.serialize(
                self.bias_initializer
            ),
        }


def _measure(routing_inputs: tf.Tensor) -> tf.Tensor:
    """What to divide by, or 0 if there is nothing to measure."""
    squares = tf.square(tf.cast(routing_inputs, tf.float32))
    is_finite = tf.math.is_finite(squares)
    mean = tf.math.divide_no_nan(
        tf.reduce_sum(tf.where(is_finite, squares, 0.0)),
        tf.reduce_sum(tf.cast(is_finite, tf.float32)),
    )
    scale = tf.sqrt(tf.stop_gradient(mean))
    return scale / tf.clip_by_value(scale, _SMALLEST_SCALE, _LARGEST_SCALE)

"""What gates with smooth-steps share: a width, a hard mode, and a cap."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from keras_comet._keras import aggregation
from keras_comet._keras import keras
from keras_comet.gates.base import Gate
from keras_comet.gates.base import check_gamma
from keras_comet.gates.base import check_k
from keras_comet.gates.input_scale import InputScale
from keras_comet.ops import keep_largest
from keras_comet.ops import static_cond


class SmoothStepGate(Gate):
    """Base class of gates whose selectors settle as smooth-steps saturate.

    The steps are `gamma * gamma_scale` wide. At a scale of 0 the gate routes
    hard: each selector keeps one expert. Whatever the width, a row keeps its
    `cardinality_cap` largest weights only, which sum to one again. Both are
    variables, so that they can change in a training that is traced already,
    are saved, and are the same on all replicas.

    Args:
        num_experts: int. Number of experts, at least 1.
        k: int. Number of selectors.
        gamma: float. Width of the smooth-step.
        hard_routing: bool. Whether `gamma_scale` starts at 0.
        rescale_inputs: bool. Whether the kernels are divided by the scale of
            the routing inputs, see `InputScale`.
        kernel_initializer: initializer of the kernels, or `None`.
        bias_initializer: initializer of the biases, or `None`.
        **kwargs: what `Gate` takes.

    Attributes:
        gamma_scale: variable `()`, 1 at first, 0 for hard routing.
        cardinality_cap: integer variable `()`, `num_experts` at first: the
            largest number of experts of a row.
        input_scale: `InputScale`, or `None` with `rescale_inputs=False`.
    """

    def __init__(
        self,
        num_experts: int,
        k: int,
        gamma: float,
        hard_routing: bool,
        rescale_inputs: bool,
        kernel_initializer: Any,
        bias_initializer: Any,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_experts, **kwargs)
        self.k = check_k(k, num_experts)
        self.gamma = check_gamma(gamma)
        self.rescale_inputs = rescale_inputs
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.bias_initializer = keras.initializers.get(bias_initializer)
        self.num_selectors = k
        self.input_scale = (
            InputScale(name="input_scale", dtype=self.dtype)
            if rescale_inputs
            else None
        )
        self._starts_hard = bool(hard_routing)

    def build(self, input_shape: Any) -> None:
        self.gamma_scale = self.add_weight(
            name="gamma_scale",
            shape=(),
            dtype="float32",
            initializer="zeros" if self._starts_hard else "ones",
            trainable=False,
            aggregation=aggregation("mean"),
        )
        self.cardinality_cap = self.add_weight(
            name="cardinality_cap",
            shape=(),
            dtype="int32",
            initializer=keras.initializers.Constant(self.num_experts),
            trainable=False,
            aggregation=aggregation("only_first_replica"),
        )
        if self.input_scale is not None:
            self.input_scale.build()
        super().build(input_shape)

    @property
    def hard_routing(self) -> bool:
        """Whether each selector keeps one expert only."""
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

    def soft_or_hard(
        self,
        soft: Callable[[Any], tf.Tensor],
        hard: Callable[[], tf.Tensor],
    ) -> tf.Tensor:
        """Routes soft, or hard if `gamma_scale` is 0.

        Args:
            soft: function of the width of the smooth-step, above 0.
            hard: function without arguments.

        Returns:
            What one of them returns.
        """
        scale = tf.convert_to_tensor(self.gamma_scale)
        return static_cond(
            tf.not_equal(scale, 0.0), lambda: soft(self.gamma * scale), hard
        )

    def rescale(self, kernel: Any) -> tf.Tensor:
        """Returns a kernel for the scale that routing inputs have."""
        if self.input_scale is None:
            return tf.convert_to_tensor(kernel)
        return self.input_scale(kernel)

    def weigh(
        self, routing_inputs: tf.Tensor, training: bool | None
    ) -> tf.Tensor:
        # Strings are refused where they would be multiplied.
        if (
            training
            and self.trainable
            and self.input_scale is not None
            and routing_inputs.dtype != tf.string
        ):
            self.input_scale.measure(routing_inputs)
        return super().weigh(routing_inputs, training)

    def cap_cardinality(self, routing_weights: tf.Tensor) -> tf.Tensor:
        """Leaves each row its `cardinality_cap` largest weights."""
        cap = tf.convert_to_tensor(self.cardinality_cap)
        return static_cond(
            tf.not_equal(cap, self.num_experts),
            lambda: keep_largest(routing_weights, cap),
            lambda: routing_weights,
        )

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "k": self.k,
            "gamma": self.gamma,
            "hard_routing": self.hard_routing,
            "rescale_inputs": self.rescale_inputs,
            "kernel_initializer": keras.initializers.serialize(
                self.kernel_initializer
            ),
            "bias_initializer": keras.initializers.serialize(
                self.bias_initializer
            ),
        }

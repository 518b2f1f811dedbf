"""Equal dense experts whose kernels are stacked."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from keras_comet._keras import keras
from keras_comet._keras import serializable
from keras_comet.ops import RoutedPairs
from keras_comet.ops import gather_routed

# Up to one row for so many experts, row after row is faster than expert
# after expert (measured with 64 experts on two cores).
_FEW_ROWS = 8


@serializable
class StackedDenseExperts(keras.layers.Layer):
    """n equal multi-layer perceptrons, each layer one stack of kernels.

    Expert e computes `h <- activation(h W[e] + b[e])` for each layer. It
    does what n small `Sequential` models do, with two variables a layer
    instead of 2n, so that it is traced, saved and updated faster. Give it to
    a mixture in place of a list of experts.

    Args:
        num_experts: int. Number of experts, at least 1.
        units: int or list of int. Width of each layer.
        activation: activation of every layer, or a list with one for each.
            Defaults to `None`.
        dropout: float. Rate of the dropout after every layer, within 0 and
            1. Defaults to `0.0`.
        kernel_initializer: initializer of one expert's kernel. Defaults to
            `"glorot_uniform"`.
        bias_initializer: initializer of one expert's bias. Defaults to
            `"zeros"`.
        kernel_regularizer: regularizer of the stacked kernels. Defaults to
            `None`.

    Attributes:
        kernels: list of variables `(num_experts, inputs, units)`.
        biases: list of variables `(num_experts, units)`.

    Call arguments:
        features: float tensor `(batch, features)`.
        training: bool. Dropout is on when true.

    Output shape:
        `(batch, num_experts, units)`: the outputs of all experts.

    Raises:
        ValueError: If `num_experts` or a width is below 1, or there are not
            as many activations as layers.

    Example:

    ```python
    import numpy as np
    import keras_comet

    moe = keras_comet.MixtureOfExperts(
        keras_comet.StackedDenseExperts(8, [32, 4], activation="relu"),
        keras_comet.TopKGate(8, k=2),
    )
    moe(np.ones((3, 16), "float32")).shape  # (3, 4)
    ```
    """

    def __init__(
        self,
        num_experts: int,
        units: int | Sequence[int],
        activation: Any = None,
        dropout: float = 0.0,
        kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        kernel_regularizer: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        widths = [units] if isinstance(units, int) else list(units)
        if num_experts < 1 or not widths or min(widths) < 1:
            raise ValueError(
                "`num_experts` and every width in `units` must be at least "
                f"1. Received: num_experts={num_experts}, units={units}"
            )
        several = isinstance(activation, (list, tuple))
        activations = list(activation) if several else [activation]
        if several and len(activations) != len(widths):
            raise ValueError(
                "`activation` must be one activation or one for each layer. "
                f"Received: {len(activations)} for units={units}"
            )
        self.num_experts = num_experts
        self.units = units if isinstance(units, int) else widths
        self.activation = (
            [keras.activations.get(each) for each in activations]
            if several
            else keras.activations.get(activation)
        )
        self.dropout = dropout
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.bias_initializer = keras.initializers.get(bias_initializer)
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)
        self._dropout_layer = keras.layers.Dropout(dropout)

    @property
    def widths(self) -> list[int]:
        """Width of each layer."""
        return [self.units] if isinstance(self.units, int) else self.units

    def build(self, input_shape: Any) -> None:
        depth = tuple(input_shape)[-1]
        if depth is None:
            raise ValueError(
                "StackedDenseExperts need a known number of features. "
                f"Received: shape {tuple(input_shape)}"
            )
        self.kernels = []
        self.biases = []
        for index, width in enumerate(self.widths):
            self.kernels.append(
                self.add_weight(
                    name=f"kernel_{index}",
                    shape=(self.num_experts, depth, width),
                    initializer=_each_expert(self.kernel_initializer),
                    regularizer=self.kernel_regularizer,
                )
            )
            self.biases.append(
                self.add_weight(
                    name=f"bias_{index}",
                    shape=(self.num_experts, width),
                    initializer=_each_expert(self.bias_initializer),
                )
            )
            depth = width
        self._dropout_layer.build((None, depth))
        self.built = True

    def call(self, features: tf.Tensor) -> tf.Tensor:
        return tf.stack(self.call_each([features] * self.num_experts), axis=-2)

    def call_each(self, features: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """Computes every expert on rows of its own.

        Args:
            features: one float tensor `(rows, features)` for each expert; the
                numbers of rows may differ, and be 0.

        Returns:
            A list of tensors `(rows, units)`.
        """
        return self._call_each(features, self._stacks())

    def call_routed(
        self, features: tf.Tensor, pairs: RoutedPairs, training: bool
    ) -> tf.Tensor:
        """Computes the experts of the pairs.

        Args:
            features: float tensor `(rows, features)`.
            pairs: what `find_routed_pairs` returned.
            training: bool. Whether dropout is on.

        Returns:
            A tensor `(pairs, units)`.
        """
        routed = gather_routed(features, pairs)
        stacks = self._stacks()
        if training:
            return self._call_many(routed, pairs, stacks)
        return tf.cond(
            tf.shape(routed)[0] <= self.num_experts // _FEW_ROWS,
            lambda: self._call_few(routed, pairs, stacks),
            lambda: self._call_many(routed, pairs, stacks),
        )

    def _stacks(self) -> list[tf.Tensor]:
        """The kernel and the bias of each layer as tensors."""
        return [
            tf.convert_to_tensor(each)
            for layer in zip(self.kernels, self.biases, strict=True)
            for each in layer
        ]

    def _call_many(
        self, routed: tf.Tensor, pairs: RoutedPairs, stacks: list[tf.Tensor]
    ) -> tf.Tensor:
        """Calls expert after expert, each on its rows."""
        features = tf.split(routed, pairs.counts, num=self.num_experts)
        return tf.concat(self._call_each(features, stacks), axis=0)

    def _call_few(
        self, routed: tf.Tensor, pairs: RoutedPairs, stacks: list[tf.Tensor]
    ) -> tf.Tensor:
        """Calls row after row, and reads the kernels of their experts only."""

        @tf.custom_gradient
        def call_few(routed: tf.Tensor, *rest: tf.Tensor) -> Any:
            pairs, stacks = RoutedPairs(*rest[:3]), list(rest[3:])

            def call_row(pair: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
                row, expert = pair
                # Slices of a stack are views; a gather would copy them.
                views = [stack[expert] for stack in stacks]
                return self._perceptron(row[tf.newaxis], views)[0]

            # That of a slice would be as large as its stack, for each row.
            def gradient(upstream: tf.Tensor) -> Any:
                sources = [routed, *stacks]
                with tf.GradientTape() as tape:
                    tape.watch(sources)
                    outputs = self._call_many(routed, pairs, stacks)
                found = tape.gradient(outputs, sources, upstream)
                return found[0], None, None, None, *found[1:]

            outputs = tf.map_fn(
                call_row,
                (routed, pairs.experts),
                fn_output_signature=stacks[-1].dtype,
            )
            return tf.ensure_shape(outputs, [None, self.widths[-1]]), gradient

        # The gradient of tf.cond does not find what it captured elsewhere.
        return call_few(
            *[tf.identity(each) for each in (routed, *pairs, *stacks)]
        )

    def _call_each(
        self, features: Sequence[tf.Tensor], stacks: list[tf.Tensor]
    ) -> list[tf.Tensor]:
        # Unstacking makes views, and its gradient is one stack.
        experts = zip(*[tf.unstack(stack) for stack in stacks], strict=True)
        return [
            self._perceptron(rows, views)
            for rows, views in zip(features, experts, strict=True)
        ]

    def _perceptron(
        self, features: tf.Tensor, views: Sequence[tf.Tensor]
    ) -> tf.Tensor:
        """Computes one expert, given its kernel and bias of each layer."""
        activations = (
            self.activation
            if isinstance(self.activation, (list, tuple))
            else [self.activation] * len(self.widths)
        )
        hidden = features
        for kernel, bias, activation in zip(
            views[::2], views[1::2], activations, strict=True
        ):
            hidden = activation(
                tf.matmul(tf.cast(hidden, kernel.dtype), kernel) + bias
            )
            if self.dropout:
                hidden = self._dropout_layer(hidden)
        return hidden

    def compute_output_shape(self, input_shape: Any) -> tuple[Any, ...]:
        leading = tuple(input_shape)[:-1]
        return (*leading, self.num_experts, self.widths[-1])

    def get_config(self) -> dict[str, Any]:
        serialize = keras.activations.serialize
        return {
            **super().get_config(),
            "num_experts": self.num_experts,
            "units": self.units,
            "activation": (
                [serialize(each) for each in self.activation]
                if isinstance(self.activation, (list, tuple))
                else serialize(self.activation)
            ),
            "dropout": self.dropout,
            "kernel_initializer": keras.initializers.serialize(
                self.kernel_initializer
            ),
            "bias_initializer": keras.initializers.serialize(
                self.bias_initializer
            ),
            "kernel_regularizer": keras.regularizers.serialize(
                self.kernel_regularizer
            ),
        }


def _each_expert(initializer: Any) -> Any:
    """Initializes each expert by itself, as a layer of its own would be."""

    def initialize(shape: Any, dtype: Any = None, **kwargs: Any) -> tf.Tensor:
        num_experts, *rest = tuple(shape)
        draws = [
            _reseeded(initializer, index)(tuple(rest), dtype=dtype)
            for index in range(num_experts)
        ]
        return tf.stack([tf.convert_to_tensor(draw) for draw in draws])

    return initialize


def _reseeded(initializer: Any, index: int) -> Any:
    """A copy that draws other numbers for every expert, from one seed."""
    config = keras.initializers.serialize(initializer)
    if isinstance(config, dict) and "seed" in config.get("config", {}):
        seed = config["config"]["seed"]
        if isinstance(seed, int):
            config["config"]["seed"] = seed + index
    return keras.initializers.get(config)

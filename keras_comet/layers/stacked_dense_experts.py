"""Equal dense experts whose kernels are stacked."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from keras_comet._keras import keras
from keras_comet._keras import serializable
from keras_comet.gates.initializers import one_by_one
from keras_comet.ops import RoutedPairs
from keras_comet.ops.stacked_experts import apply_experts
from keras_comet.ops.stacked_experts import apply_routed


@serializable
class StackedDenseExperts(keras.layers.Layer):
    """n equal multi-layer perceptrons, each layer one stack of kernels.

    Expert e computes `h <- activation(h W[e] + b[e])` for each layer. In a
    mixture it does what a list of n `Sequential` models does, with two
    variables a layer instead of 2n: it is traced, saved and updated faster.

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
        activations = [keras.activations.get(each) for each in activations]
        self.activation = activations if several else activations[0]
        self.dropout = dropout
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.bias_initializer = keras.initializers.get(bias_initializer)
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)
        # Not without dropout: under Keras 2 its random state, though never
        # used, would be one that a checkpoint cannot hold.
        self._dropout_layer = (
            keras.layers.Dropout(dropout, dtype=self.dtype_policy)
            if dropout
            else None
        )

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
        for index, width in enumerate(self.widths):
            kernel = self.add_weight(
                name=f"kernel_{index}",
                shape=(self.num_experts, depth, width),
                initializer=one_by_one(self.kernel_initializer),
                regularizer=self.kernel_regularizer,
            )
            bias = self.add_weight(
                name=f"bias_{index}",
                shape=(self.num_experts, width),
                initializer=one_by_one(self.bias_initializer),
            )
            # Attributes, as TensorFlow checkpoints do not look into lists.
            setattr(self, f"kernel_{index}", kernel)
            setattr(self, f"bias_{index}", bias)
            depth = width
        if self._dropout_layer is not None:
            self._dropout_layer.build((None, depth))
        self.built = True

    @property
    def kernels(self) -> list[Any]:
        """Variables `(num_experts, inputs, units)`, one for each layer."""
        return self._by_layer("kernel")

    @property
    def biases(self) -> list[Any]:
        """Variables `(num_experts, units)`, one for each layer."""
        return self._by_layer("bias")

    def _by_layer(self, name: str) -> list[Any]:
        layers = range(len(self.widths)) if self.built else []
        return [getattr(self, f"{name}_{layer}") for layer in layers]

    def as_given(self) -> "StackedDenseExperts":
        """Returns the experts as a mixture was given them."""
        return self

    def row_output_shape(self, row_shape: Sequence[Any]) -> tuple[Any, ...]:
        """Returns the shape of what an expert makes of one row."""
        return (*row_shape[:-1], self.widths[-1])

    def call(self, features: tf.Tensor) -> tf.Tensor:
        return tf.stack(self.call_all(features), axis=-2)

    def call_all(
        self, features: tf.Tensor, training: bool | None = None
    ) -> list[tf.Tensor]:
        """Returns what each expert makes of all rows."""
        rows = [features] * self.num_experts
        return apply_experts(self._perceptron, rows, self._stacks())

    def call_routed(
        self, features: tf.Tensor, pairs: RoutedPairs, training: bool
    ) -> tf.Tensor:
        """Returns what the experts make of their rows, in order of `pairs`."""
        return apply_routed(
            self._perceptron, features, pairs, self._stacks(), training
        )

    def _stacks(self) -> list[tf.Tensor]:
        """The kernel and the bias of each layer as tensors."""
        return [
            tf.convert_to_tensor(each)
            for layer in zip(self.kernels, self.biases, strict=True)
            for each in layer
        ]

    def _perceptron(
        self, features: tf.Tensor, views: Sequence[tf.Tensor]
    ) -> tf.Tensor:
        """Computes one expert, given its kernel and bias of each layer."""
        activations = self.activation
        if callable(activations):
            activations = [activations] * len(self.widths)
        hidden = features
        for kernel, bias, activation in zip(
            views[::2], views[1::2], activations, strict=True
        ):
            hidden = activation(
                tf.matmul(tf.cast(hidden, kernel.dtype), kernel) + bias
            )
            if self._dropout_layer is not None:
                hidden = self._dropout_layer(hidden)
        return hidden

    def compute_output_shape(self, input_shape: Any) -> tuple[Any, ...]:
        leading = tuple(input_shape)[:-1]
        return (*leading, self.num_experts, self.widths[-1])

    def get_config(self) -> dict[str, Any]:
        initializers, regularizers = keras.initializers, keras.regularizers
        return {
            **super().get_config(),
            "num_experts": self.num_experts,
            "units": self.units,
            "activation": tf.nest.map_structure(
                keras.activations.serialize, self.activation
            ),
            "dropout": self.dropout,
            "kernel_initializer": initializers.serialize(
                self.kernel_initializer
            ),
            "bias_initializer": initializers.serialize(self.bias_initializer),
            "kernel_regularizer": regularizers.serialize(
                self.kernel_regularizer
            ),
        }

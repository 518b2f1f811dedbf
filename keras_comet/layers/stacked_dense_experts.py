"""Equal dense experts whose kernels are stacked."""

from collections.abc import Iterable
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from keras_comet._keras import keras
from keras_comet._keras import serializable
from keras_comet.gates.initializers import copy_of
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
    Dropout differs: a row has one mask for all of its experts, as masks of
    their own would average out in the sum.

    With a `deviation_scale` s experts share a base, `W[e] = W_0 + s D[e]`, and
    so for biases (partial pooling). All rows train the base, those of an
    expert its deviation, which starts at zero: experts begin as one and
    differ where their rows ask for it. That is for data with few rows for
    each expert, where experts of their own overfit. As Adam forgets the size
    of a gradient, s is the deviations' learning rate relative to the base's.
    Exported models hold the sums, and serve as fast as without a base.

    Reference:
    - [Evgeniou and Pontil, 2004](https://doi.org/10.1145/1014052.1014067),
      regularized multi-task learning: `W_0 + V_t` for each task.

    Args:
        num_experts: int. Number of experts, at least 1.
        units: int or list of int. Width of each layer.
        activation: activation of every layer, or a list with one for each.
            Defaults to `None`.
        dropout: float. Rate of the dropout after every layer, within 0 and
            1. Defaults to `0.0`.
        deviation_scale: float above 0: experts share a base, and differ from
            it by this times their deviations. Defaults to `None`: they share
            nothing.
        kernel_initializer: initializer of one expert's kernel. Defaults to
            `"glorot_uniform"`.
        bias_initializer: initializer of one expert's bias. Defaults to
            `"zeros"`.
        kernel_regularizer: regularizer of the stacked kernels; with a shared
            base, of the base and of the deviations. Defaults to `None`.

    Attributes:
        kernels: list of variables `(num_experts, inputs, units)`: deviations,
            if experts share a base.
        biases: list of variables `(num_experts, units)`, likewise.
        base_kernels: list of variables `(inputs, units)`, empty without a
            shared base.
        base_biases: list of variables `(units,)`, likewise.

    Call arguments:
        features: float tensor `(batch, features)`.
        training: bool. Dropout is on when true.

    Output shape:
        `(batch, num_experts, units)`: the outputs of all experts.

    Raises:
        ValueError: If `num_experts` or a width is no integer above 0,
            `deviation_scale` is not above 0, or there are not as many
            activations as layers.

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
        deviation_scale: float | None = None,
        kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        kernel_regularizer: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        widths = list(units) if isinstance(units, Iterable) else [units]
        sizes = [num_experts, *widths]
        if not widths or not all(
            isinstance(size, (int, np.integer)) and size > 0 for size in sizes
        ):
            raise ValueError(
                "`num_experts` and every width in `units` must be an integer "
                f"of at least 1. Received: num_experts={num_experts}, "
                f"units={units}"
            )
        several = isinstance(activation, (list, tuple))
        activations = list(activation) if several else [activation]
        if several and len(activations) != len(widths):
            raise ValueError(
                "`activation` must be one activation or one for each layer. "
                f"Received: {len(activations)} for units={units}"
            )
        if deviation_scale is not None and not deviation_scale > 0.0:
            raise ValueError(
                "`deviation_scale` must be above 0, or None for experts that "
                f"share no base. Received: deviation_scale={deviation_scale}"
            )
        self.num_experts = int(num_experts)
        self.deviation_scale = deviation_scale
        integers = [int(each) for each in widths]
        self.units = integers if isinstance(units, Iterable) else integers[0]
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
            self._add_layer(index, depth, width)
            depth = width
        if self._dropout_layer is not None:
            self._dropout_layer.build((None, depth))
        self.built = True

    def _add_layer(self, index: int, depth: int, width: int) -> None:
        """Adds the kernels and biases of a layer, and their bases if any."""
        for name, shape, initializer, regularizer in (
            (
                "kernel",
                (depth, width),
                self.kernel_initializer,
                self.kernel_regularizer,
            ),
            ("bias", (width,), self.bias_initializer, None),
        ):
            base = None
            if self.deviation_scale is not None:
                base = self.add_weight(
                    name=f"base_{name}_{index}",
                    shape=shape,
                    initializer=copy_of(initializer),
                    regularizer=regularizer,
                )
                initializer = keras.initializers.Zeros()
            stack = self.add_weight(
                name=f"{name}_{index}",
                shape=(self.num_experts, *shape),
                initializer=one_by_one(initializer),
                regularizer=regularizer,
            )
            # Attributes, as TensorFlow checkpoints do not look into lists.
            setattr(self, f"base_{name}_{index}", base)
            setattr(self, f"{name}_{index}", stack)

    @property
    def kernels(self) -> list[Any]:
        """Variables `(num_experts, inputs, units)`, one for each layer."""
        return self._by_layer("kernel")

    @property
    def biases(self) -> list[Any]:
        """Variables `(num_experts, units)`, one for each layer."""
        return self._by_layer("bias")

    @property
    def base_kernels(self) -> list[Any]:
        """Variables `(inputs, units)`, one for each layer, or none."""
        return self._by_layer("base_kernel")

    @property
    def base_biases(self) -> list[Any]:
        """Variables `(units,)`, one for each layer, or none."""
        return self._by_layer("base_bias")

    def _by_layer(self, name: str) -> list[Any]:
        layers = range(len(self.widths)) if self.built else []
        variables = [getattr(self, f"{name}_{layer}") for layer in layers]
        return [each for each in variables if each is not None]

    def merged_weights(self) -> dict[str, np.ndarray[Any, Any]]:
        """Returns each expert's weights as they are now, its base added.

        Returns:
            A dict from `"kernel_0"`, `"bias_0"`, ... to an array
            `(num_experts, ...)`.
        """
        merged = {}
        for index in range(len(self.widths)):
            for name in (f"kernel_{index}", f"bias_{index}"):
                stack = np.asarray(tf.convert_to_tensor(getattr(self, name)))
                base = getattr(self, f"base_{name}")
                if base is not None:
                    scale = np.asarray(self.deviation_scale, stack.dtype)
                    base = np.asarray(tf.convert_to_tensor(base))
                    stack = base + scale * stack
                merged[name] = stack
        return merged

    def as_given(self) -> "StackedDenseExperts":
        """Returns the experts as a mixture was given them."""
        return self

    def row_output_shape(self, row_shape: Sequence[Any]) -> tuple[Any, ...]:
        """Returns the shape of what an expert makes of one row."""
        return (*row_shape[:-1], self.widths[-1])

    def call(
        self, features: tf.Tensor, training: bool | None = None
    ) -> tf.Tensor:
        return tf.stack(self.call_all(features, bool(training)), axis=-2)

    def call_all(self, features: tf.Tensor, training: bool) -> list[tf.Tensor]:
        """Returns what each expert makes of all rows."""
        rows = [self._with_masks(features, training)] * self.num_experts
        return apply_experts(
            self._perceptron,
            rows,
            self._read(self.kernels, self.biases),
            self._read(self.base_kernels, self.base_biases),
        )

    def call_routed(
        self, features: tf.Tensor, pairs: RoutedPairs, training: bool
    ) -> tf.Tensor:
        """Returns what the experts make of their rows, in order of `pairs`."""
        return apply_routed(
            self._perceptron,
            self._with_masks(features, training),
            pairs,
            self._read(self.kernels, self.biases),
            self._read(self.base_kernels, self.base_biases),
            training,
        )

    def _read(self, kernels: list[Any], biases: list[Any]) -> list[tf.Tensor]:
        """Lists the kernel and the bias of each layer as tensors."""
        tensors = [
            tf.cast(tf.convert_to_tensor(each), self.compute_dtype)
            for layer in zip(kernels, biases, strict=True)
            for each in layer
        ]
        # An export has sums for deviations, and for the base a tensor of
        # size 0: there is nothing to add.
        return [each for each in tensors if each.shape.num_elements() != 0]

    def _with_masks(self, features: tf.Tensor, training: bool) -> tf.Tensor:
        """Puts the dropout masks of each row behind its features, if any."""
        features = tf.cast(features, self.compute_dtype)
        if self._dropout_layer is None or not training:
            return features
        shape = tf.concat([tf.shape(features)[:-1], [sum(self.widths)]], 0)
        masks = self._dropout_layer(
            tf.ones(shape, features.dtype), training=True
        )
        return tf.concat([features, masks], axis=-1)

    def _perceptron(
        self,
        rows: tf.Tensor,
        views: Sequence[tf.Tensor],
        shared: Sequence[tf.Tensor],
    ) -> tf.Tensor:
        """Computes one expert.

        Args:
            rows: what `_with_masks` returned, or some rows of it.
            views: the kernel and the bias of each layer.
            shared: the base of each of them, or nothing.
        """
        activations = self.activation
        if callable(activations):
            activations = [activations] * len(self.widths)
        if shared:
            views = [
                base + tf.cast(self.deviation_scale, base.dtype) * view
                for base, view in zip(shared, views, strict=True)
            ]
        depth = views[0].shape[0]
        hidden, masks = rows, [None] * len(self.widths)
        if rows.shape[-1] > depth:
            hidden, *masks = tf.split(rows, [depth, *self.widths], axis=-1)
        for kernel, bias, activation, mask in zip(
            views[::2], views[1::2], activations, masks, strict=True
        ):
            # An activation may return another dtype.
            hidden = tf.cast(hidden, kernel.dtype)
            hidden = activation(tf.matmul(hidden, kernel) + bias)
            if mask is not None:
                hidden *= tf.cast(mask, hidden.dtype)
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
            "deviation_scale": self.deviation_scale,
            "kernel_initializer": initializers.serialize(
                self.kernel_initializer
            ),
            "bias_initializer": initializers.serialize(self.bias_initializer),
            "kernel_regularizer": regularizers.serialize(
                self.kernel_regularizer
            ),
        }

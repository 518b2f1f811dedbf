"""What gates share that score every expert by one linear map."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from keras_comet import regularizers
from keras_comet._keras import keras
from keras_comet.gates.base import Gate
from keras_comet.gates.base import RegularizerWeight
from keras_comet.gates.base import check_features
from keras_comet.gates.base import check_regularizer_weight
from keras_comet.gates.expert_permutation import ExpertPermutation
from keras_comet.ops.linear import linear


class LinearGate(Gate):
    """Base class of gates with one logit per expert, `x . w_e + b_e`.

    Args:
        num_experts: int. Number of experts, at least 1.
        permutation: `ExpertPermutation`, or `None` for the identity.
        z_loss_weight: float or Keras learning rate schedule over training
            calls. Weight of the penalty that keeps the logits small
            (`regularizers.z_loss`). Defaults to `0.0`.
        kernel_initializer: initializer of the kernel. Defaults to
            `"glorot_uniform"`.
        bias_initializer: initializer of the bias. Defaults to `"zeros"`.
        **kwargs: `load_balance_weight` of `Gate`, and what a Keras layer
            takes.

    Attributes:
        kernel: variable `(features, num_experts)`.
        bias: variable `(num_experts,)`.
    """

    regularizer_weights = ("z_loss_weight", *Gate.regularizer_weights)

    def __init__(
        self,
        num_experts: int,
        permutation: ExpertPermutation | None = None,
        z_loss_weight: RegularizerWeight = 0.0,
        kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        **kwargs: Any,
    ) -> None:
        super().__init__(num_experts, permutation=permutation, **kwargs)
        self.z_loss_weight = check_regularizer_weight(
            "z_loss_weight", z_loss_weight
        )
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.bias_initializer = keras.initializers.get(bias_initializer)

    def build(self, input_shape: Any) -> None:
        depth = check_features(self, input_shape)
        self.kernel = self.add_matrix(
            "kernel", (depth, self.num_experts), self.kernel_initializer
        )
        self.bias = self.add_matrix(
            "bias", (self.num_experts,), self.bias_initializer
        )
        super().build(input_shape)

    def logits(
        self, routing_inputs: tf.Tensor
    ) -> tuple[tf.Tensor, dict[str, Callable[[], tf.Tensor]]]:
        """Computes the logits `(..., num_experts)` and their z-loss."""
        logits = linear(routing_inputs, self.kernel, self.bias)
        return logits, {"z_loss_weight": lambda: regularizers.z_loss(logits)}

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "kernel_initializer": keras.initializers.serialize(
                self.kernel_initializer
            ),
            "bias_initializer": keras.initializers.serialize(
                self.bias_initializer
            ),
        }

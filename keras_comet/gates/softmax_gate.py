"""The softmax gate of MMoE: dense, the baseline of all sparse gates."""

from collections.abc import Callable

import tensorflow as tf

from keras_comet._keras import serializable
from keras_comet.gates.linear_gate import LinearGate


@serializable
class SoftmaxGate(LinearGate):
    """Gives every expert some weight: `g = softmax(x . w + b)`.

    The baseline: simple, smooth, never sparse, so that every expert runs for
    every example. Choose a sparse gate when that is too slow, or when tasks
    should have experts of their own.

    Reference:
    - [Ma et al., 2018](https://doi.org/10.1145/3219819.3220007), Eq. (6)

    Args:
        num_experts: int. Number of experts, at least 1.
        permutation: `ExpertPermutation`, or `None`. Defaults to `None`.
        z_loss_weight: float or Keras learning rate schedule over training
            calls. Weight of the penalty for large logits. Defaults to `0.0`.
        kernel_initializer: initializer of the kernel. Defaults to
            `"glorot_uniform"`.
        bias_initializer: initializer of the bias. Defaults to `"zeros"`.
        **kwargs: `load_balance_weight` of `Gate`, and what a Keras layer
            takes.

    Attributes:
        kernel: variable `(features, num_experts)`.
        bias: variable `(num_experts,)`.

    Call arguments:
        routing_inputs: float tensor `(..., features)`.
        training: bool. Regularizers are added when true.

    Input shape:
        `(batch, features)` or `(batch, time, features)`.

    Output shape:
        `(..., num_experts)`: nonnegative, every row sums to one.

    Raises:
        ValueError: If `num_experts` is below 1 or a weight is negative.

    Example:

    ```python
    import numpy as np
    import keras_comet

    gate = keras_comet.SoftmaxGate(num_experts=4)
    gate(np.ones((3, 8), "float32")).shape  # (3, 4)
    ```
    """

    def route(
        self, routing_inputs: tf.Tensor, training: bool
    ) -> tuple[tf.Tensor, dict[str, Callable[[], tf.Tensor]]]:
        logits, penalties = self.logits(routing_inputs)
        # (..., 1, n): one selector, which settles on nothing
        return tf.nn.softmax(logits)[..., tf.newaxis, :], penalties

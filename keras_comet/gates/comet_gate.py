"""The COMET gate: k trees, each settling on one expert."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from keras_comet import regularizers
from keras_comet._keras import serializable
from keras_comet.gates.base import RegularizerWeight
from keras_comet.gates.base import check_features
from keras_comet.gates.base import check_regularizer_weight
from keras_comet.gates.expert_permutation import ExpertPermutation
from keras_comet.gates.initializers import small_logits
from keras_comet.gates.smooth_step_gate import SmoothStepGate
from keras_comet.ops import follow_splits
from keras_comet.ops import leaf_probabilities
from keras_comet.ops import leaf_weights
from keras_comet.ops import smooth_step
from keras_comet.ops.linear import linear
from keras_comet.ops.linear import linear_at

# From so many experts on, hard routing is faster along the paths than through
# all nodes, at one row and at thousands (measured on two cores).
_PATH_FROM = 512


@serializable
class COMETGate(SmoothStepGate):
    """Selects experts with k binary trees; sparse once the trees settle.

    Each tree routes an example from its root to its leaves, which are the
    experts, through splits `s = S(x . w + b)` with the smooth-step S. A split
    that saturates sends everything one way; when all do, each tree picks one
    leaf, so at most k experts get weight. Until then more experts do; a
    `CardinalityTarget` caps them from an epoch on that you name. The gate is
    trained by gradient descent throughout, which Top-k is not. The
    leaves that are reached are weighed by one softmax over all trees:
    `g_e = sum_j v_je exp(a_je) / sum_{j,l} v_jl exp(a_jl)`.

    Works for any number of experts, power of two or not. Prefer it to
    `TopKGate` when quality matters and experts may differ; prefer `TopKGate`
    when the cap must hold from the first step.

    Reference:
    - [Ibrahim et al., 2023](https://arxiv.org/abs/2306.02824), Eq. (2) to
      (4). Departure: no constant inside a logarithm, as there is none.

    Args:
        num_experts: int. Number of experts (leaves), at least 1.
        k: int. Number of trees, the cap on selected experts per example once
            all splits saturate. Defaults to `2`.
        gamma: float. Width of the smooth-step: the smaller, the sooner splits
            saturate. Defaults to `1.0`.
        entropy_weight: float or Keras learning rate schedule over training
            calls. Weight of the entropy of the trees, which pushes them to
            settle. Under a `CardinalityTarget` none is needed. Defaults to
            `0.0`.
        learning_rate_multiplier: float above 0. The gate's learning rate,
            relative to that of the optimizer: splits that move as fast as
            experts saturate before experts differ. Defaults to `0.1`.
        permutation: `ExpertPermutation`, or `None`: leaf i is expert i.
            Defaults to `None`.
        hard_routing: bool. Rounds every split to its nearer side, so that at
            most k experts are selected always. Splits get no gradient then,
            leaves and experts do. The attribute can be changed at any time.
            Defaults to `False`.
        rescale_inputs: bool. Whether the first training batch measures the
            scale of the routing inputs, which the kernels are divided by if
            their root mean square is not between 0.02 and 2. Else splits
            saturate at once, or never. Defaults to `True`.
        kernel_initializer: initializer of the split and leaf kernels, which
            it sees as matrices. Defaults to `None`: a spread of 0.2 gamma
            (splits) and 0.2 (leaves) for features of unit variance.
        bias_initializer: initializer of both biases. Defaults to `"zeros"`.
        **kwargs: `load_balance_weight` of `Gate`, and what a Keras layer
            takes.

    Attributes:
        split_kernel: variable `(features, k, num_experts - 1)`, heap order.
        split_bias: variable `(k, num_experts - 1)`.
        leaf_kernel: variable `(features, k, num_experts)`, left to right.
        leaf_bias: variable `(k, num_experts)`.
        gamma_scale: variable `()`. The smooth-step is `gamma` times this
            wide: 1 at first, 0 for hard routing.
        cardinality_cap: integer variable `()`, `num_experts` at first. A row
            keeps so many of its largest weights. See `CardinalityTarget`.
        input_scale: layer with the variable `scale`: what the kernels are
            divided by, 0 until it is measured.

    Call arguments:
        routing_inputs: float tensor `(..., features)`.
        training: bool. Regularizers are added when true.

    Input shape:
        `(batch, features)` or `(batch, time, features)`.

    Output shape:
        `(..., num_experts)`: nonnegative, every row sums to one.

    Raises:
        ValueError: If `k` is not within 1 and `num_experts`, `gamma` is not
            above 0, or a weight is negative.

    Example:

    ```python
    import numpy as np
    import keras_comet

    gate = keras_comet.COMETGate(num_experts=6, k=2)
    gate(np.ones((3, 8), "float32")).shape  # (3, 6)
    ```
    """

    regularizer_weights = (
        "entropy_weight",
        *SmoothStepGate.regularizer_weights,
    )

    def __init__(
        self,
        num_experts: int,
        k: int = 2,
        gamma: float = 1.0,
        entropy_weight: RegularizerWeight = 0.0,
        learning_rate_multiplier: float = 0.1,
        permutation: ExpertPermutation | None = None,
        hard_routing: bool = False,
        rescale_inputs: bool = True,
        kernel_initializer: Any = None,
        bias_initializer: Any = "zeros",
        **kwargs: Any,
    ) -> None:
        super().__init__(
            num_experts,
            k=k,
            gamma=gamma,
            hard_routing=hard_routing,
            rescale_inputs=rescale_inputs,
            kernel_initializer=kernel_initializer,
            bias_initializer=bias_initializer,
            learning_rate_multiplier=learning_rate_multiplier,
            permutation=permutation,
            **kwargs,
        )
        self.entropy_weight = check_regularizer_weight(
            "entropy_weight", entropy_weight
        )

    def build(self, input_shape: Any) -> None:
        depth = check_features(self, input_shape)
        num_splits = self.num_experts - 1
        self.split_kernel = self.add_matrix(
            "split_kernel",
            (depth, self.k, num_splits),
            self.kernel_initializer or small_logits(self.gamma),
        )
        self.split_bias = self.add_matrix(
            "split_bias", (self.k, num_splits), self.bias_initializer
        )
        self.leaf_kernel = self.add_matrix(
            "leaf_kernel",
            (depth, self.k, self.num_experts),
            self.kernel_initializer or small_logits(),
        )
        self.leaf_bias = self.add_matrix(
            "leaf_bias", (self.k, self.num_experts), self.bias_initializer
        )
        super().build(input_shape)

    def route(
        self, routing_inputs: tf.Tensor, training: bool
    ) -> tuple[tf.Tensor, dict[str, Callable[[], tf.Tensor]]]:
        if not training and self.num_experts >= _PATH_FROM:
            return self.soft_or_hard(
                soft=lambda width: self._visit_all(
                    routing_inputs, lambda z: smooth_step(z, width)
                )[0],
                hard=lambda: self._visit_paths(routing_inputs),
            ), {}
        weights, reached = self._visit_all(
            routing_inputs,
            lambda z: self.soft_or_hard(
                soft=lambda width: smooth_step(z, width),
                hard=lambda: tf.cast(_goes_left(z), z.dtype),
            ),
        )
        return weights, {
            "entropy_weight": lambda: regularizers.entropy(reached)
        }

    def _visit_all(
        self,
        routing_inputs: tf.Tensor,
        step: Callable[[tf.Tensor], tf.Tensor],
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Weighs the leaves by what reaches them, which is returned too."""
        # Shapes (..., k, n - 1) for splits and (..., k, n) for leaves.
        split_logits = linear(
            routing_inputs, self.rescale(self.split_kernel), self.split_bias
        )
        leaf_logits = linear(
            routing_inputs, self.rescale(self.leaf_kernel), self.leaf_bias
        )
        reached = leaf_probabilities(step(split_logits))
        return leaf_weights(leaf_logits, reached), reached

    def _visit_paths(self, routing_inputs: tf.Tensor) -> tf.Tensor:
        """Weighs the one leaf of each tree that hard routing ends in."""
        split_logits = linear_at(
            routing_inputs, self.rescale(self.split_kernel), self.split_bias
        )
        leaf_logits = linear_at(
            routing_inputs, self.rescale(self.leaf_kernel), self.leaf_bias
        )
        leading = tf.shape(routing_inputs)[:-1]
        leaves = follow_splits(
            lambda split: _goes_left(split_logits(split)),
            self.num_experts,
            tf.zeros(tf.concat([leading, [self.k]], axis=0), tf.int32),
        )
        logits = leaf_logits(leaves)
        weights = tf.exp(logits - tf.reduce_max(logits, axis=-1, keepdims=True))
        return weights[..., tf.newaxis] * tf.one_hot(
            leaves, self.num_experts, dtype=weights.dtype
        )


def _goes_left(split_logits: tf.Tensor) -> tf.Tensor:
    """The rounding of a smooth-step, which is 1/2 at zero."""
    return split_logits >= 0.0

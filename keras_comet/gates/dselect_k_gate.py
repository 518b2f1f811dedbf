"""The DSelect-k gate: k selectors, each with a binary code."""

import math
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from keras_comet import regularizers
from keras_comet._keras import keras
from keras_comet._keras import serializable
from keras_comet.gates.base import RegularizerWeight
from keras_comet.gates.base import check_features
from keras_comet.gates.base import check_regularizer_weight
from keras_comet.gates.expert_permutation import ExpertPermutation
from keras_comet.gates.initializers import small_logits
from keras_comet.gates.smooth_step_gate import SmoothStepGate
from keras_comet.ops import smooth_step
from keras_comet.ops.binary_codes import code_probabilities
from keras_comet.ops.linear import linear

# Rows whose selectors put less than this on experts are not divided by it.
_NO_MASS = 1e-30


@serializable
class DSelectKGate(SmoothStepGate):
    """Selects experts with k binary codes; sparse once their digits settle.

    Each selector holds m = ceil(log2 n) smooth-steps, the digits of the code
    of one expert; the selectors are mixed by a softmax over k:
    `g = sum_j softmax(x . w + b)_j v_j`. Cheaper than `COMETGate`, with
    fewer parameters; its digits are shared by all experts of a selector.

    When n is no power of two, some codes belong to no expert. The rows are
    renormalized to sum to one, and a penalty keeps the selectors off such
    codes. A row that has all of its mass there is folded back: the code's
    first digit becomes 0, which is an expert's code.

    Reference:
    - [Hazimeh et al., 2021](https://arxiv.org/abs/2106.03760), Eq. (3) to
      (6). Departures: rows are renormalized, and the penalty is a mean over
      the batch, not a sum.

    Args:
        num_experts: int. Number of experts, at least 1.
        k: int. Number of selectors, the cap on selected experts per example
            once all digits saturate. Defaults to `2`.
        gamma: float. Width of the smooth-step. Defaults to `1.0`.
        entropy_weight: float or Keras learning rate schedule over training
            calls. Weight of the entropy of the selectors. Defaults to `0.0`.
        penalty_weight: float or Keras learning rate schedule. Weight of the
            reciprocal of the mass on experts, used only when `num_experts` is
            no power of two. Defaults to `1e-3`.
        example_conditioned: bool. `False` gives the static form: one set of
            weights for all examples. Defaults to `True`.
        permutation: `ExpertPermutation`, or `None`. Defaults to `None`.
        hard_routing: bool. Each selector keeps its likeliest expert alone, so
            that at most k experts are selected always. Digits get no gradient
            then, mixture and experts do. The attribute can be changed at any
            time. Defaults to `False`.
        rescale_inputs: bool. Whether the first training batch measures the
            scale of the routing inputs, which the kernels are divided by if
            their root mean square is not between 0.02 and 2. Changes nothing
            in the static form. Defaults to `True`.
        kernel_initializer: initializer of both kernels. Defaults to `None`: a
            spread of 0.2 gamma (digits) and 0.2 (mixture) for features of
            unit variance.
        bias_initializer: initializer of both biases. Defaults to `None`:
            digits within 0.01 gamma of undecided, as published, and zeros
            for the mixture.
        **kwargs: `load_balance_weight` of `Gate`, and what a Keras layer
            takes.

    Attributes:
        selector_kernel: variable `(features, k, m)`.
        selector_bias: variable `(k, m)`.
        weight_kernel: variable `(features, k)`.
        weight_bias: variable `(k,)`. The static form has only the biases.
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

    gate = keras_comet.DSelectKGate(num_experts=6, k=2)
    gate(np.ones((3, 8), "float32")).shape  # (3, 6)
    ```
    """

    regularizer_weights = (
        "entropy_weight",
        "penalty_weight",
        *SmoothStepGate.regularizer_weights,
    )

    def __init__(
        self,
        num_experts: int,
        k: int = 2,
        gamma: float = 1.0,
        entropy_weight: RegularizerWeight = 0.0,
        penalty_weight: RegularizerWeight = 1e-3,
        example_conditioned: bool = True,
        permutation: ExpertPermutation | None = None,
        hard_routing: bool = False,
        rescale_inputs: bool = True,
        kernel_initializer: Any = None,
        bias_initializer: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            num_experts,
            k=k,
            gamma=gamma,
            hard_routing=hard_routing,
            rescale_inputs=rescale_inputs and example_conditioned,
            kernel_initializer=kernel_initializer,
            bias_initializer=bias_initializer,
            permutation=permutation,
            **kwargs,
        )
        self.entropy_weight = check_regularizer_weight(
            "entropy_weight", entropy_weight
        )
        self.penalty_weight = check_regularizer_weight(
            "penalty_weight", penalty_weight
        )
        self.example_conditioned = example_conditioned
        self.rescale_inputs = rescale_inputs

    @property
    def num_digits(self) -> int:
        """Digits of a code, m = ceil(log2 n)."""
        return math.ceil(math.log2(self.num_experts))

    def build(self, input_shape: Any) -> None:
        depth = check_features(self, input_shape)
        spread = 0.01 * self.gamma
        if self.example_conditioned:
            self.selector_kernel = self.add_matrix(
                "selector_kernel",
                (depth, self.k, self.num_digits),
                self.kernel_initializer or small_logits(self.gamma),
            )
            self.weight_kernel = self.add_matrix(
                "weight_kernel",
                (depth, self.k),
                self.kernel_initializer or small_logits(),
            )
        self.selector_bias = self.add_matrix(
            "selector_bias",
            (self.k, self.num_digits),
            self.bias_initializer
            or keras.initializers.RandomUniform(-spread, spread),
        )
        self.weight_bias = self.add_matrix(
            "weight_bias",
            (self.k,),
            self.bias_initializer or keras.initializers.Zeros(),
        )
        super().build(input_shape)

    def route(
        self, routing_inputs: tf.Tensor, training: bool
    ) -> tuple[tf.Tensor, dict[str, Callable[[], tf.Tensor]]]:
        # Shapes (..., k, m) for digits and (..., k) for the mixture.
        if self.example_conditioned:
            digit_logits = linear(
                routing_inputs,
                self.rescale(self.selector_kernel),
                self.selector_bias,
            )
            weight_logits = linear(
                routing_inputs,
                self.rescale(self.weight_kernel),
                self.weight_bias,
            )
        else:
            leading = tf.zeros_like(routing_inputs[..., :1])
            digit_logits = leading[..., tf.newaxis] + self.selector_bias
            weight_logits = leading + self.weight_bias
        # Hard routing compares codes at the full width: at none, all tie.
        digits = self.soft_or_hard(
            soft=lambda width: smooth_step(digit_logits, width),
            hard=lambda: smooth_step(digit_logits, self.gamma),
        )
        codes = code_probabilities(digits)
        weights = tf.nn.softmax(weight_logits)[..., tf.newaxis]
        reachable = codes[..., : self.num_experts]
        penalties = {"entropy_weight": lambda: regularizers.entropy(reachable)}
        if codes.shape[-1] > self.num_experts:
            mass = tf.reduce_sum(reachable, axis=-1)
            penalties["penalty_weight"] = lambda: (
                regularizers.unreachable_codes(mass)
            )
        selector_weights = self.soft_or_hard(
            soft=lambda _: self._renormalize(weights, codes),
            hard=lambda: weights * self._harden(codes),
        )
        return selector_weights, penalties

    def _renormalize(self, weights: tf.Tensor, codes: tf.Tensor) -> tf.Tensor:
        selector_weights = weights * codes[..., : self.num_experts]
        if codes.shape[-1] == self.num_experts:
            return selector_weights
        total = tf.reduce_sum(selector_weights, axis=[-2, -1], keepdims=True)
        has_mass = total >= _NO_MASS
        # Divide by one where there is nothing: no NaN enters the gradient.
        return tf.where(
            has_mass,
            selector_weights / tf.where(has_mass, total, 1.0),
            weights * self._fold(codes),
        )

    def _harden(self, codes: tf.Tensor) -> tf.Tensor:
        reachable = codes[..., : self.num_experts]
        has_mass = tf.reduce_max(reachable, axis=-1) > 0.0
        expert = tf.where(
            has_mass,
            tf.argmax(reachable, axis=-1),
            tf.argmax(self._fold(codes), axis=-1),
        )
        return tf.one_hot(expert, self.num_experts, dtype=codes.dtype)

    def _fold(self, codes: tf.Tensor) -> tf.Tensor:
        """Moves the mass of unreachable codes, their first digit made 0."""
        half = codes.shape[-1] // 2
        unreachable = codes[..., self.num_experts :]
        first = self.num_experts - half
        padding = [[0, 0]] * (codes.shape.rank - 1) + [[first, 0]]
        folded = codes[..., :half] + tf.pad(unreachable, padding)
        return tf.concat([folded, codes[..., half : self.num_experts]], axis=-1)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "example_conditioned": self.example_conditioned,
        }

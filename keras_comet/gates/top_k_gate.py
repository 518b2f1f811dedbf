"""The Top-k gate: a softmax over the k largest logits."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from keras_comet._keras import aggregation
from keras_comet._keras import keras
from keras_comet._keras import serializable
from keras_comet.gates.base import RegularizerWeight
from keras_comet.gates.base import check_k
from keras_comet.gates.expert_permutation import ExpertPermutation
from keras_comet.gates.linear_gate import LinearGate
from keras_comet.ops.linear import linear
from keras_comet.ops.random_normal import random_normal

# Floor of the learned noise, so that exploration never dies out.
_NOISE_FLOOR = 1e-2


@serializable
class TopKGate(LinearGate):
    """Selects the k experts with the largest logits, for every example.

    `g = softmax(l_e for e in the k largest of l = x . w + b)`, 0 elsewhere.
    Never more than k experts, from the first step; the price is that experts
    that are not selected get no gradient. A selected logit of exactly 0
    stays selected.

    With `noise=True`, training adds `N(0, 1) * softplus(x . w_noise)` to the
    logits before the choice, which makes gates try other experts.

    Reference:
    - [Shazeer et al., 2017](https://arxiv.org/abs/1701.06538), Eq. (3) to
      (5). Departure: the noise has a floor of 0.01.

    Args:
        num_experts: int. Number of experts, at least 1.
        k: int. Number of experts selected for each example. Defaults to `2`.
        noise: bool. Whether to add noise in training. Defaults to `False`.
        load_balance_weight: float or Keras learning rate schedule over
            training calls. Weight of the penalty for uneven use of the
            experts. Defaults to `0.0`.
        permutation: `ExpertPermutation`, or `None`. With k permutations, the
            j-th largest logit goes through the j-th one. Defaults to `None`.
        seed: int, or `None` for a random one. Seeds the noise. Defaults to
            `None`.
        **kwargs: `z_loss_weight`, `kernel_initializer` and
            `bias_initializer` of `LinearGate`, and what a Keras layer takes.

    Attributes:
        kernel: variable `(features, num_experts)`.
        bias: variable `(num_experts,)`.
        noise_kernel: variable `(features, num_experts)`, with `noise=True`.

    Call arguments:
        routing_inputs: float tensor `(..., features)`.
        training: bool. Noise and regularizers are added when true.

    Input shape:
        `(batch, features)` or `(batch, time, features)`.

    Output shape:
        `(..., num_experts)`: at most k entries of a row are not zero, they
        are positive and sum to one.

    Raises:
        ValueError: If `k` is not within 1 and `num_experts` or a weight is
            negative.

    Example:

    ```python
    import numpy as np
    import keras_comet

    gate = keras_comet.TopKGate(num_experts=16, k=2)
    weights = gate(np.ones((3, 8), "float32"))
    int((weights[0] > 0).numpy().sum())  # 2
    ```
    """

    def __init__(
        self,
        num_experts: int,
        k: int = 2,
        noise: bool = False,
        load_balance_weight: RegularizerWeight = 0.0,
        permutation: ExpertPermutation | None = None,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            num_experts,
            permutation=permutation,
            load_balance_weight=load_balance_weight,
            **kwargs,
        )
        self.k = check_k(k, num_experts)
        self.noise = noise
        self.seed = seed
        self.num_selectors = k

    def build(self, input_shape: Any) -> None:
        super().build(input_shape)
        if not self.noise:
            return
        self.noise_kernel = self.add_weight(
            name="noise_kernel",
            shape=self.kernel.shape,
            initializer="zeros",
        )
        self.seed_state = self.add_weight(
            name="seed_state",
            shape=(2,),
            dtype="int32",
            initializer=(
                keras.initializers.RandomUniform(0, 2**31 - 1)
                if self.seed is None
                else keras.initializers.Constant(self.seed)
            ),
            trainable=False,
            aggregation=aggregation("only_first_replica"),
        )

    def route(
        self, routing_inputs: tf.Tensor, training: bool
    ) -> tuple[tf.Tensor, dict[str, Callable[[], tf.Tensor]]]:
        logits, penalties = self.logits(routing_inputs)
        if self.noise and training:
            logits += self._draw_noise(routing_inputs)
        largest, experts = tf.math.top_k(logits, self.k)
        # (..., k, n): row j is the expert of the j-th largest logit
        selected = tf.one_hot(experts, self.num_experts, dtype=logits.dtype)
        return tf.nn.softmax(largest)[..., tf.newaxis] * selected, penalties

    def _draw_noise(self, routing_inputs: tf.Tensor) -> tf.Tensor:
        spread = _NOISE_FLOOR + tf.nn.softplus(
            linear(routing_inputs, self.noise_kernel)
        )
        seed = tf.convert_to_tensor(self.seed_state)
        self.seed_state.assign(seed + [1, 0])
        noise = random_normal(tf.shape(spread), seed)
        return tf.cast(noise, spread.dtype) * spread

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "k": self.k,
            "noise": self.noise,
            "seed": self.seed,
        }

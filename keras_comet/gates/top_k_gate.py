"""The Top-k gate: a softmax over the k largest logits."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from keras_comet._keras import aggregation
from keras_comet._keras import serializable
from keras_comet.gates.base import RegularizerWeight
from keras_comet.gates.base import check_k
from keras_comet.gates.expert_permutation import ExpertPermutation
from keras_comet.gates.linear_gate import LinearGate
from keras_comet.gates.seed_state import add_seed_state
from keras_comet.gates.seed_state import next_seed
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

    With a `balance_rate` u, experts are chosen by the logits plus a balance
    that every training call moves towards even loads, by u times the sign of
    what an expert's load lacks of the mean, unless the gate is frozen. The
    weights of the chosen remain the softmax of their logits, and no loss is
    added.

    With `noise=True`, training adds `N(0, 1) * softplus(x . w_noise)` to the
    logits before the choice, which makes gates try other experts.

    Reference:
    - [Shazeer et al., 2017](https://arxiv.org/abs/1701.06538), Eq. (3) to
      (5). Departure: the noise has a floor of 0.01.
    - [Wang et al., 2024](https://arxiv.org/abs/2408.15664), Algorithm 1, the
      balance, on logits in place of sigmoids of them.

    Args:
        num_experts: int. Number of experts, at least 1.
        k: int. Number of experts selected for each example. Defaults to `2`.
        noise: bool. Whether to add noise in training. Defaults to `False`.
        load_balance_weight: float or Keras learning rate schedule over
            training calls. Weight of the penalty for uneven use of the
            experts. Defaults to `0.0`.
        balance_rate: float. Step of the balance in a training call, such as
            0.001; the balance costs no loss, but moves rows that another
            expert serves as well. Defaults to `0.0`: there is none.
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
        balance: variable `(num_experts,)`, with a `balance_rate`.

    Call arguments:
        routing_inputs: float tensor `(..., features)`.
        training: bool. Noise and regularizers are added when true.

    Input shape:
        `(batch, features)` or `(batch, time, features)`.

    Output shape:
        `(..., num_experts)`: at most k entries of a row are not zero, they
        are positive and sum to one.

    Raises:
        ValueError: If `k` is not within 1 and `num_experts`, or a weight or
            `balance_rate` is negative.

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
        balance_rate: float = 0.0,
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
        if not balance_rate >= 0.0:
            raise ValueError(
                "`balance_rate` must be at least 0. "
                f"Received: balance_rate={balance_rate}"
            )
        self.k = check_k(k, num_experts)
        self.balance_rate = balance_rate
        self.noise = noise
        self.seed = seed
        self.num_selectors = k

    def build(self, input_shape: Any) -> None:
        super().build(input_shape)
        if self.balance_rate:
            self.balance = self.add_weight(
                name="balance",
                shape=(self.num_experts,),
                initializer="zeros",
                trainable=False,
                aggregation=aggregation("mean"),
            )
        if not self.noise:
            return
        self.noise_kernel = self.add_matrix(
            "noise_kernel", tuple(self.kernel.shape), "zeros"
        )
        self.seed_state = add_seed_state(self, self.seed)

    def route(
        self, routing_inputs: tf.Tensor, training: bool
    ) -> tuple[tf.Tensor, dict[str, Callable[[], tf.Tensor]]]:
        logits, penalties = self.logits(routing_inputs)
        if self.noise and training:
            logits += self._draw_noise(routing_inputs)
        scores = logits
        if self.balance_rate:
            scores += tf.convert_to_tensor(self.balance)
        chosen, experts = tf.math.top_k(scores, self.k)
        # (..., k, n): row j is the expert of the j-th largest score
        selected = tf.one_hot(experts, self.num_experts, dtype=logits.dtype)
        if self.balance_rate:
            # The balance chooses, and does not weigh.
            rank = logits.shape.rank
            chosen = tf.gather(logits, experts, batch_dims=rank - 1)
            if training and self.trainable:
                self._move_balance(selected)
        return tf.nn.softmax(chosen)[..., tf.newaxis] * selected, penalties

    def _move_balance(self, selected: tf.Tensor) -> None:
        """Raises what gets too few rows, and lowers what gets too many."""
        rows = tf.reshape(selected, [-1, self.num_experts])
        load = tf.reduce_sum(rows, axis=0)
        lacking = tf.sign(tf.reduce_mean(load) - load)
        balance = tf.convert_to_tensor(self.balance)
        self.balance.assign(balance + self.balance_rate * lacking)

    def _draw_noise(self, routing_inputs: tf.Tensor) -> tf.Tensor:
        spread = _NOISE_FLOOR + tf.nn.softplus(
            linear(routing_inputs, self.noise_kernel)
        )
        noise = random_normal(tf.shape(spread), next_seed(self.seed_state))
        return tf.cast(noise, spread.dtype) * spread

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "k": self.k,
            "noise": self.noise,
            "balance_rate": self.balance_rate,
            "seed": self.seed,
        }

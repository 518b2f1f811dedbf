"""The permutation between a gate's outputs and the experts."""

from typing import Any

import numpy as np
import tensorflow as tf

from keras_comet._keras import aggregation
from keras_comet._keras import keras
from keras_comet._keras import serializable
from keras_comet.gates.precision import full_precision


@serializable
class ExpertPermutation(keras.layers.Layer):
    """Says which expert each output of a gate goes to.

    A gate's outputs have a place: in a tree, leaves side by side share most
    of their splits. Which expert sits at which place therefore matters, and
    is what the local search looks for. The permutation is applied as
    `g = sum_j G_j P_j`, where `G_j` is the row of selector j.

    Give the same object to several gates and they share one permutation. With
    `num_permutations=1` all selectors of a gate share it; with as many as the
    gate has selectors, each selector has its own, and Top-k and Hash keep
    their cardinality.

    Reference:
    - [Ibrahim et al., 2023](https://arxiv.org/abs/2306.02824), Section 4

    Args:
        num_experts: int. Number of experts, at least 1.
        num_permutations: int. `1`, or the number of selectors of the gates
            that use it (their k). Defaults to `1`.

    Attributes:
        assignment: int32 variable `(num_permutations, num_experts)`:
            `assignment[p, i]` is the expert that output i goes to. Starts as
            the identity; assign to it and routing changes at once.

    Call arguments:
        selector_weights: float tensor `(..., num_selectors, num_experts)`.

    Output shape:
        `(..., num_experts)`: permuted, and summed over the selectors.

    Raises:
        ValueError: If `num_experts` or `num_permutations` is below 1, or if
            there are neither one permutation nor one per selector.

    Example:

    ```python
    import keras_comet

    permutation = keras_comet.ExpertPermutation(4)
    permutation.assignment.assign([[3, 2, 1, 0]])
    gates = {
        task: keras_comet.COMETGate(4, permutation=permutation)
        for task in ("click", "buy")
    }
    ```
    """

    def __init__(
        self, num_experts: int, num_permutations: int = 1, **kwargs: Any
    ) -> None:
        # Routing weights pass through, so they must not be cast down.
        kwargs["dtype"] = full_precision(kwargs.get("dtype"))
        super().__init__(**kwargs)
        for name, value in (
            ("num_experts", num_experts),
            ("num_permutations", num_permutations),
        ):
            if value < 1:
                raise ValueError(
                    f"`{name}` must be at least 1. Received: {name}={value}"
                )
        self.num_experts = num_experts
        self.num_permutations = num_permutations
        identity = np.tile(np.arange(num_experts), (num_permutations, 1))
        # Made here and not in build(), so that it can be assigned at once.
        self.assignment = self.add_weight(
            name="assignment",
            shape=(num_permutations, num_experts),
            dtype="int32",
            initializer=lambda shape, dtype=None: tf.constant(
                identity, tf.int32
            ),
            trainable=False,
            aggregation=aggregation("only_first_replica"),
        )

    def build(self, input_shape: Any = None) -> None:
        self.built = True

    def call(self, selector_weights: tf.Tensor) -> tf.Tensor:
        num_selectors = selector_weights.shape[-2]
        self.check_selectors(num_selectors)
        assignment = tf.convert_to_tensor(self.assignment)
        if self.num_permutations == 1:
            groups = [tf.reduce_sum(selector_weights, axis=-2)]
        else:
            groups = tf.unstack(selector_weights, axis=-2)
        # Expert e takes the output i with assignment[i] == e.
        return tf.add_n(
            [
                tf.gather(
                    weights,
                    tf.math.invert_permutation(assignment[index]),
                    axis=-1,
                )
                for index, weights in enumerate(groups)
            ]
        )

    def check_selectors(self, num_selectors: int) -> None:
        """Raises a ValueError unless it suits a gate of so many selectors."""
        if self.num_permutations not in (1, num_selectors):
            raise ValueError(
                "A gate needs one permutation, or one for each of its "
                f"{num_selectors} selectors. Received an ExpertPermutation "
                f"with num_permutations={self.num_permutations}"
            )

    def compute_output_shape(self, input_shape: Any) -> tuple[Any, ...]:
        return (*tuple(input_shape)[:-2], self.num_experts)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "num_experts": self.num_experts,
            "num_permutations": self.num_permutations,
        }

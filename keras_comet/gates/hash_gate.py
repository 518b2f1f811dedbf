"""The Hash gate: every id belongs to one expert, fixed from the start."""

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from keras_comet._keras import aggregation
from keras_comet._keras import serializable
from keras_comet.gates.base import Gate
from keras_comet.gates.expert_permutation import ExpertPermutation
from keras_comet.ops import stable_hash


@serializable
class HashGate(Gate):
    """Selects one expert by the id of the user, item or token.

    Nothing to train and nothing to tune: `g = one_hot(expert of the id)`.
    With `num_ids`, ids are `0 ... num_ids - 1` (what a Keras lookup layer
    returns) and a table, drawn evenly with a seed, is stored in the model.
    With `num_ids=None`, integer or string ids of any kind are hashed; that
    mapping is stable across processes and machines and defined for ids that
    training never saw.

    Reference:
    - [Roller et al., 2021](https://arxiv.org/abs/2106.04426), Section 3

    Args:
        num_experts: int. Number of experts, at least 1.
        num_ids: int, or `None` to hash ids of any kind. Number of ids in the
            table. Defaults to `None`.
        seed: int. Seeds the table or the hash. Defaults to `0`.
        permutation: `ExpertPermutation`, or `None`. Defaults to `None`.
        **kwargs: what a Keras layer takes.

    Attributes:
        assignment: int32 variable `(num_ids,)`, not trainable; only with
            `num_ids`.

    Call arguments:
        routing_inputs: integer tensor of ids, or string without `num_ids`.
        training: bool. Changes nothing.

    Input shape:
        `(batch,)` or `(batch, 1)`; `(batch, time)` for tokens.

    Output shape:
        `(batch, num_experts)` or `(batch, time, num_experts)`: one entry of
        each row is 1, the others are 0.

    Raises:
        ValueError: If `num_experts` or `num_ids` is below 1, ids are neither
            integers nor strings or, in eager mode, not within the table; in
            a graph, TensorFlow's `InvalidArgumentError`.

    Example:

    ```python
    import numpy as np
    import keras_comet

    gate = keras_comet.HashGate(num_experts=4)
    gate(np.array([17, 23_000_000])).shape  # (2, 4)
    ```
    """

    reads_ids = True

    # One expert per example, whatever happens.
    k = 1

    def __init__(
        self,
        num_experts: int,
        num_ids: int | None = None,
        seed: int = 0,
        permutation: ExpertPermutation | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_experts, permutation=permutation, **kwargs)
        if num_ids is not None and num_ids < 1:
            raise ValueError(
                "`num_ids` must be at least 1, or None to hash ids of any "
                f"kind. Received: num_ids={num_ids}"
            )
        self.num_ids = num_ids
        self.seed = seed

    def build(self, input_shape: Any) -> None:
        # A list of Python strings has no shape in Keras 2.
        if input_shape is not None and not tuple(input_shape):
            raise ValueError(
                "HashGate reads ids (batch,), (batch, 1) or (batch, time). "
                "Received: a single id. Add the batch axis."
            )
        if self.num_ids is not None:
            table = np.arange(self.num_ids) % self.num_experts
            np.random.default_rng(self.seed).shuffle(table)
            self.assignment = self.add_weight(
                name="assignment",
                shape=(self.num_ids,),
                dtype="int32",
                initializer=lambda shape, dtype=None: tf.constant(
                    table, tf.int32
                ),
                trainable=False,
                aggregation=aggregation("only_first_replica"),
            )
        super().build(input_shape)

    def route(
        self, routing_inputs: tf.Tensor, training: bool
    ) -> tuple[tf.Tensor, dict[str, Callable[[], tf.Tensor]]]:
        ids = tf.convert_to_tensor(routing_inputs)
        if ids.shape.rank and ids.shape.rank > 1 and ids.shape[-1] == 1:
            ids = tf.squeeze(ids, axis=-1)
        if self.num_ids is None:
            experts = stable_hash(ids, self.num_experts, self.seed)
        else:
            experts = self._look_up(ids, self.num_ids)
        # One selector: the shape becomes (..., 1, n).
        selected = tf.one_hot(experts, self.num_experts, dtype="float32")
        return selected[..., tf.newaxis, :], {}

    def _look_up(self, ids: tf.Tensor, num_ids: int) -> tf.Tensor:
        if not ids.dtype.is_integer:
            raise ValueError(
                "HashGate with `num_ids` reads integer ids. Received: "
                f"dtype {ids.dtype.name}. Look the ids up first (for example "
                "with keras.layers.StringLookup), or use num_ids=None."
            )
        message = (
            f"HashGate knows the ids 0 to {num_ids - 1}, as num_ids="
            f"{num_ids}. Raise `num_ids`, look the ids up first, or use "
            "num_ids=None, which hashes ids of any value"
        )
        legal = (ids >= 0) & (ids < num_ids)
        if tf.executing_eagerly() and not tf.reduce_all(legal):
            illegal = tf.boolean_mask(ids, ~legal)[0]
            raise ValueError(f"{message}. Received: id {int(illegal)}")
        with tf.control_dependencies(
            [tf.debugging.Assert(tf.reduce_all(legal), [message, ids])]
        ):
            # A gather on the variable itself would make each read copy it.
            return tf.gather(tf.convert_to_tensor(self.assignment), ids)

    def compute_output_shape(self, input_shape: Any) -> tuple[Any, ...]:
        shape = tuple(input_shape)
        if len(shape) > 1 and shape[-1] == 1:
            shape = shape[:-1]
        return (*shape, self.num_experts)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "num_ids": self.num_ids,
            "seed": self.seed,
        }

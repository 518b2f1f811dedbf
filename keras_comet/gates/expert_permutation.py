"""The permutation between a gate's outputs and the experts."""

import weakref
from collections.abc import Iterable
from typing import Any

import numpy as np
import tensorflow as tf

from keras_comet._keras import aggregation
from keras_comet._keras import keras
from keras_comet._keras import serializable
from keras_comet.gates.precision import full_precision
from keras_comet.ops import linear_assignment
from keras_comet.ops import static_cond


@serializable
class ExpertPermutation(keras.layers.Layer):
    """Says which expert each output of a gate goes to.

    A gate's outputs have a place: in a tree, leaves side by side share most
    of their splits. Which expert sits at which place therefore matters, and
    is what the local search looks for. The permutation is applied as
    `g = sum_j G_j P_j`, where `G_j` is the row of selector j.

    Frozen, as it is unless a `LocalSearchOptimizer` searches, it is a
    constant that costs one gather. While the method `"sinkhorn"` searches, P
    is a nearly doubly stochastic matrix instead, and a product.

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
        permutation_weights: float32 variable `(num_permutations, num_experts,
            num_experts)`: P, `[p, i, e]` being the share of output i that
            expert e gets. Used only while a search is on.
        frozen: bool variable: whether the search is over, so that P is the
            constant `assignment`. Starts as true.

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
        # Made here and not in build(), so that they can be assigned at once.
        self.assignment = self._add_state(
            "assignment", identity, "int32", trainable=False
        )
        self.permutation_weights = self._add_state(
            "permutation_weights",
            np.eye(num_experts)[identity],
            "float32",
            trainable=True,
        )
        self.frozen = self._add_state(
            "frozen", np.array(True), "bool", trainable=False
        )
        # An optimizer is given variables, and must find what they belong to.
        self.permutation_weights.expert_permutation = weakref.ref(self)

    def _add_state(
        self, name: str, value: Any, dtype: str, trainable: bool
    ) -> Any:
        return self.add_weight(
            name=name,
            shape=value.shape,
            dtype=dtype,
            initializer=lambda shape, dtype=dtype: tf.constant(value, dtype),
            trainable=trainable,
            aggregation=aggregation("only_first_replica"),
        )

    def build(self, input_shape: Any = None) -> None:
        self.built = True

    def call(self, selector_weights: tf.Tensor) -> tf.Tensor:
        self.check_selectors(selector_weights.shape[-2])
        return static_cond(
            tf.convert_to_tensor(self.frozen),
            lambda: self._gather(selector_weights),
            lambda: self._multiply(self._split(selector_weights)),
        )

    def _split(self, selector_weights: tf.Tensor) -> list[tf.Tensor]:
        """Returns one tensor `(..., n)` for each permutation."""
        if self.num_permutations == 1:
            return [tf.reduce_sum(selector_weights, axis=-2)]
        return tf.unstack(selector_weights, axis=-2)

    def _gather(self, selector_weights: tf.Tensor) -> tf.Tensor:
        # Expert e takes the output i with assignment[i] == e.
        assignment = tf.convert_to_tensor(self.assignment)
        known = tf.get_static_value(assignment)
        if known is not None and is_identity(known):
            permuted = tf.reduce_sum(selector_weights, axis=-2)
        else:
            inverses = (
                map(tf.math.invert_permutation, tf.unstack(assignment))
                if known is None
                else np.argsort(known, axis=-1)
            )
            rows = self._split(selector_weights)
            permuted = tf.add_n(
                [
                    tf.gather(weights, inverse, axis=-1)
                    for weights, inverse in zip(rows, inverses, strict=True)
                ]
            )
        # In a graph, the gradient of tf.cond is zero for what it leaves out.
        if tf.executing_eagerly():
            return _with_zero_gradient(
                permuted, tf.convert_to_tensor(self.permutation_weights)
            )
        return permuted

    def _multiply(self, rows: list[tf.Tensor]) -> tf.Tensor:
        matrices = tf.unstack(tf.convert_to_tensor(self.permutation_weights))
        return tf.add_n(
            [
                tf.einsum(
                    "...n,nm->...m", weights, tf.cast(matrix, weights.dtype)
                )
                for weights, matrix in zip(rows, matrices, strict=True)
            ]
        )

    def is_searching(self) -> tf.Tensor | bool:
        """Whether P is not frozen, so that zero weights need gradients."""
        frozen = tf.convert_to_tensor(self.frozen)
        known = tf.get_static_value(frozen)
        return tf.logical_not(frozen) if known is None else not known

    def freeze(self, assignment: Any = None) -> None:
        """Ends the search here, at the nearest permutation or a given one.

        Args:
            assignment: int array `(num_permutations, num_experts)`. Defaults
                to `None`: P rounded, exactly.
        """
        if assignment is None:
            if bool(tf.convert_to_tensor(self.frozen)):
                return
            assignment = nearest_permutations(self.permutation_weights)
        self.assignment.assign(assignment)
        self.permutation_weights.assign(
            tf.one_hot(assignment, self.num_experts)
        )
        self.frozen.assign(True)

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


@tf.custom_gradient
def _with_zero_gradient(used: tf.Tensor, unused: tf.Tensor) -> Any:
    """Returns `used`; Keras warns of variables that have no gradient."""

    def backpropagate(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return upstream, tf.zeros_like(unused)

    return tf.identity(used), backpropagate


def is_identity(orders: Any) -> bool:
    """Whether permutations `(num_permutations, n)` all move nothing."""
    orders = np.asarray(orders)
    return bool((orders == np.arange(orders.shape[-1])).all())


def nearest_permutations(permutation_weights: Any) -> tf.Tensor:
    """Rounds soft permutations exactly, by linear assignment.

    Args:
        permutation_weights: float tensor `(num_permutations, n, n)`. The
            larger an entry, the better.

    Returns:
        An int32 tensor `(num_permutations, n)`.
    """
    weights = tf.convert_to_tensor(permutation_weights)
    return tf.stack([linear_assignment(-each) for each in tf.unstack(weights)])


def find_permutations(variables: Iterable[Any]) -> list[ExpertPermutation]:
    """Lists the permutations whose `permutation_weights` are given.

    Args:
        variables: variables, those of a model for example.

    Returns:
        The permutations, in the order of their variables.
    """
    owners = [
        (variable, getattr(variable, "expert_permutation", lambda: None)())
        for variable in variables
    ]
    return [
        owner
        for variable, owner in owners
        # A copy of a variable has the attribute too.
        if owner is not None and owner.permutation_weights is variable
    ]


def check_names(permutations: Iterable[ExpertPermutation]) -> None:
    """Raises a ValueError if two different permutations have one name."""
    by_name: dict[str, ExpertPermutation] = {}
    for permutation in permutations:
        if by_name.setdefault(permutation.name, permutation) is not permutation:
            raise ValueError(
                "Permutations are told apart by their names. Expected: "
                "different names. Received: two permutations "
                f"{permutation.name!r}. Name them, as in "
                "ExpertPermutation(num_experts, name='click'), or share one."
            )

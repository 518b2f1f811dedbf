"""What all gates share: the contract, the permutation, the regularizers."""

import math
from collections.abc import Callable
from collections.abc import Iterable
from contextvars import ContextVar
from typing import Any
from typing import TypeAlias

import numpy as np
import tensorflow as tf

from keras_comet import regularizers
from keras_comet._keras import aggregation
from keras_comet._keras import keep_frozen
from keras_comet._keras import keras
from keras_comet.containers import deserialize_layers
from keras_comet.containers import register_user
from keras_comet.containers import serialize_layers
from keras_comet.gates.expert_permutation import ExpertPermutation
from keras_comet.gates.initializers import as_matrix
from keras_comet.gates.learning_rate_multiplier import LearningRateMultiplier
from keras_comet.gates.precision import full_precision
from keras_comet.ops.normalize import normalize
from keras_comet.ops.xla import compiles_with_xla

# A float, or a Keras learning rate schedule, whose type mypy cannot see.
RegularizerWeight: TypeAlias = Any

# The list that calls of gates in this context are noted in, see `capture`.
captured_calls: ContextVar[list[tuple["Gate", tf.Tensor]] | None] = ContextVar(
    "captured_calls", default=None
)

# What turns the routing weights of eager calls in this context into others,
# see `replace`.
routing_replacement: ContextVar[
    Callable[["Gate", tf.Tensor], tf.Tensor] | None
] = ContextVar("routing_replacement", default=None)


class Gate(keras.layers.Layer):
    """Base class of all gates: turns routing inputs into routing weights.

    A new gate implements `route`, which says how each of its selectors
    weighs the experts. The base class applies the permutation, adds up the
    selectors, normalizes the rows and keeps the books of the regularizers.

    Routing runs in float32 under every precision policy, as float16 and
    bfloat16 cannot hold weights that sum to one within 1e-6.

    Args:
        num_experts: int. Number of experts to choose from, at least 1.
        permutation: `ExpertPermutation`, or `None` for the identity.
        load_balance_weight: float or a Keras learning rate schedule over
            training calls. Weight of the penalty that pushes the gate to
            use all experts (`regularizers.load_balance`). Defaults to `0.0`.
        learning_rate_multiplier: float above 0. The gate's learning rate,
            relative to that of the optimizer. Defaults to `1.0`.

    Call arguments:
        routing_inputs: what the gate reads, `(..., features)` unless the gate
            says otherwise.
        training: bool. Regularizers are added only when true.
        mask: bool tensor `(...)`, false for padding, which Keras passes on
            from the routing inputs. Defaults to `None`: no row is padding.

    Output shape:
        `(..., num_experts)`, float32: nonnegative, every row sums to one,
        and what is not selected is exactly 0.0. A row of padding is all 0.0,
        so that a mixture computes no expert for it, and takes no part in
        regularizers.
    """

    # True for a gate that routes by id instead of by features.
    reads_ids = False

    # Name of the task that the gate serves, set by a multi-gate mixture.
    task: str | None = None

    # Number of selectors, the length of the next to last axis of route().
    num_selectors = 1

    # Constructor arguments that weigh a regularizer; subclasses add theirs.
    regularizer_weights: tuple[str, ...] = ("load_balance_weight",)

    def __init__(
        self,
        num_experts: int,
        permutation: ExpertPermutation | None = None,
        load_balance_weight: RegularizerWeight = 0.0,
        learning_rate_multiplier: float = 1.0,
        **kwargs: Any,
    ) -> None:
        kwargs["dtype"] = full_precision(kwargs.get("dtype"))
        super().__init__(**kwargs)
        self.supports_masking = True
        if not isinstance(num_experts, (int, np.integer)) or num_experts < 1:
            raise ValueError(
                "`num_experts` must be an integer of at least 1. "
                f"Received: num_experts={num_experts!r}"
            )
        if not isinstance(permutation, (ExpertPermutation, type(None))):
            raise ValueError(
                "`permutation` must be an ExpertPermutation or None. "
                f"Received: permutation={permutation!r}. Make one and assign "
                "to its `assignment`."
            )
        if permutation is not None and permutation.num_experts != num_experts:
            raise ValueError(
                "The gate and its permutation must have equally many experts. "
                f"Received: num_experts={num_experts} and a permutation of "
                f"{permutation.num_experts} experts"
            )
        if not learning_rate_multiplier > 0.0:
            raise ValueError(
                "`learning_rate_multiplier` must be above 0; to keep a gate "
                "as it is, set `gate.trainable = False`. Received: "
                f"learning_rate_multiplier={learning_rate_multiplier}"
            )
        self.num_experts = int(num_experts)
        self.learning_rate_multiplier = float(learning_rate_multiplier)
        self.permutation = permutation
        if permutation is not None:
            register_user([permutation])
        self.load_balance_weight = check_regularizer_weight(
            "load_balance_weight", load_balance_weight
        )

    def build(self, input_shape: Any) -> None:
        if self.permutation is not None:
            self.permutation.check_selectors(self.num_selectors)
        if any(callable(getattr(self, n)) for n in self.regularizer_weights):
            self.training_steps = self.add_weight(
                name="training_steps",
                shape=(),
                dtype="int64",
                initializer="zeros",
                trainable=False,
                aggregation=aggregation("only_first_replica"),
            )
        keep_frozen(self)
        self.built = True

    def add_matrix(
        self, name: str, shape: tuple[int, ...], initializer: Any
    ) -> Any:
        """Adds a variable whose initializer sees all axes but one as one.

        Args:
            name: str. Name of the variable.
            shape: tuple of int, the features or selectors first.
            initializer: Keras initializer, or its name.

        Returns:
            The variable.
        """
        # One expert needs no split: Keras warns of an empty weight without
        # gradient if it is trainable.
        trainable = math.prod(shape) > 0
        initializer = as_matrix(initializer)
        constraint = None
        if trainable and self.learning_rate_multiplier != 1.0:
            before = self.add_weight(
                name=f"{name}_before_update",
                shape=shape,
                initializer=initializer,
                trainable=False,
                aggregation=aggregation("only_first_replica"),
            )
            # An attribute, so that every way of saving finds it.
            setattr(self, f"{name}_before_update", before)
            constraint = LearningRateMultiplier(
                self.learning_rate_multiplier, before
            )

            def initializer(*_: Any, **__: Any) -> tf.Tensor:
                return tf.convert_to_tensor(before)

        return self.add_weight(
            name=name,
            shape=shape,
            initializer=initializer,
            trainable=trainable,
            constraint=constraint,
        )

    def route(
        self, routing_inputs: tf.Tensor, training: bool
    ) -> tuple[tf.Tensor, dict[str, Callable[[], tf.Tensor]]]:
        """Weighs the experts by each selector, before the permutation.

        Args:
            routing_inputs: what the gate reads.
            training: bool. Whether regularizers are wanted and noise is on.

        Returns:
            The selectors' weights `(..., num_selectors, num_experts)`, which
            are normalized after the permutation, and the gate's own
            regularizers: functions that compute the penalty,
            under the name of the attribute that holds its weight.
        """
        raise NotImplementedError(
            f"{type(self).__name__} must implement `route`."
        )

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        routing_weights = super().__call__(*args, **kwargs)
        calls = captured_calls.get()
        if calls is not None:
            calls.append((self, routing_weights))
        return routing_weights

    def call(
        self,
        routing_inputs: tf.Tensor,
        training: bool | None = None,
        mask: tf.Tensor | None = None,
    ) -> tf.Tensor:
        if mask is None:
            return self.weigh(routing_inputs, training)
        return weigh_unmasked(self, routing_inputs, training, mask)

    def weigh(
        self, routing_inputs: tf.Tensor, training: bool | None
    ) -> tf.Tensor:
        """Turns routing inputs without padding into routing weights."""
        if training and self.learning_rate_multiplier != 1.0:
            self._remember_weights()
        selector_weights, penalties = self.route(routing_inputs, bool(training))
        if self.permutation is None:
            routing_weights = tf.reduce_sum(selector_weights, axis=-2)
        else:
            routing_weights = self.permutation(selector_weights)
        routing_weights = self.cap_cardinality(normalize(routing_weights))
        if training:
            self._add_penalties(
                {
                    **penalties,
                    "load_balance_weight": lambda: regularizers.load_balance(
                        routing_weights
                    ),
                }
            )
        replace = routing_replacement.get()
        if replace is not None and tf.executing_eagerly():
            return replace(self, routing_weights)
        return routing_weights

    def cap_cardinality(self, routing_weights: tf.Tensor) -> tf.Tensor:
        """Takes weights off rows that have too many; here of none."""
        return routing_weights

    def _remember_weights(self) -> None:
        for variable in self.trainable_weights:
            if isinstance(variable.constraint, LearningRateMultiplier):
                variable.constraint.remember(variable)

    def _add_penalties(
        self, penalties: dict[str, Callable[[], tf.Tensor]]
    ) -> None:
        for name, penalty in penalties.items():
            weight = getattr(self, name)
            if callable(weight):
                weight = weight(tf.convert_to_tensor(self.training_steps))
            elif weight == 0.0:
                continue
            # Keras adds losses up in float32; others raise in fit().
            self.add_loss(
                tf.cast(weight, tf.float32) * tf.cast(penalty(), tf.float32)
            )
        if hasattr(self, "training_steps"):
            self.training_steps.assign_add(1)

    def compute_output_shape(self, input_shape: Any) -> tuple[Any, ...]:
        return (*tuple(input_shape)[:-1], self.num_experts)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "num_experts": self.num_experts,
            "permutation": self.permutation
            and serialize_layers(self.permutation, self),
            "learning_rate_multiplier": self.learning_rate_multiplier,
            **{
                name: _serialize_weight(getattr(self, name))
                for name in self.regularizer_weights
            },
        }

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: Any = None
    ) -> "Gate":
        config = deserialize_layers(config, ["permutation"], custom_objects)
        for name in cls.regularizer_weights:
            if isinstance(config.get(name), dict):
                config[name] = keras.saving.deserialize_keras_object(
                    config[name], custom_objects=custom_objects
                )
        return cls(**config)


def weigh_unmasked(
    gate: Gate,
    routing_inputs: tf.Tensor,
    training: bool | None,
    mask: tf.Tensor,
) -> tf.Tensor:
    """Routes the rows that are no padding, and puts zeros in between.

    Args:
        gate: `Gate`.
        routing_inputs: what it reads.
        training: bool.
        mask: bool tensor, false for padding.

    Returns:
        Routing weights `(*mask.shape, num_experts)`.

    Raises:
        ValueError: If XLA compiles a training step, as it has no way to leave
            rows out.
    """
    if compiles_with_xla():
        if training:
            raise ValueError(
                f"The gate {gate.name!r} is trained on inputs with a mask, "
                "and XLA cannot leave padding out of regularizers. Compile "
                "the model with jit_compile=False."
            )
        is_row = tf.cast(mask, "float32")[..., tf.newaxis]
        return gate.weigh(routing_inputs, training) * is_row
    rows = gate.weigh(tf.boolean_mask(routing_inputs, mask), training)
    shape = tf.concat([tf.shape(mask), [gate.num_experts]], axis=0)
    weights = tf.scatter_nd(tf.where(mask), rows, tf.cast(shape, tf.int64))
    return tf.ensure_shape(weights, [*mask.shape, gate.num_experts])


def any_searching(gates: Iterable[Gate]) -> tf.Tensor | bool:
    """Whether a permutation of these gates is being searched.

    Then weights that are zero need gradients too, which only computing all
    experts gives.
    """
    permutations = {
        id(gate.permutation): gate.permutation
        for gate in gates
        if gate.permutation is not None
    }
    searching = [each.is_searching() for each in permutations.values()]
    unknown = [each for each in searching if tf.is_tensor(each)]
    if any(each is True for each in searching):
        return True
    return tf.reduce_any(tf.stack(unknown)) if unknown else False


def check_k(k: int, num_experts: int) -> int:
    """Returns `k` if it is a legal number of selected experts.

    Raises:
        ValueError: If `k` is no integer, below 1 or above `num_experts`.
    """
    if not isinstance(k, (int, np.integer)) or not 1 <= k <= num_experts:
        raise ValueError(
            "`k` must be an integer of at least 1 and at most the number of "
            f"experts. Received: k={k!r}, num_experts={num_experts}"
        )
    return int(k)


def check_gamma(gamma: float) -> float:
    """Returns `gamma` if it is a legal width of a smooth-step.

    Raises:
        ValueError: If `gamma` is not above 0.
    """
    if not gamma > 0.0:
        raise ValueError(
            "`gamma`, the width of the smooth-step, must be above 0. "
            f"Received: gamma={gamma}"
        )
    return gamma


def check_regularizer_weight(
    name: str, weight: RegularizerWeight
) -> RegularizerWeight:
    """Returns `weight` if it is a schedule or a nonnegative number.

    Raises:
        ValueError: If it is neither.
    """
    if isinstance(weight, keras.optimizers.schedules.LearningRateSchedule):
        return weight
    if not isinstance(weight, (int, float, np.number)) or not weight >= 0.0:
        raise ValueError(
            f"`{name}` must be a number of at least 0 or a Keras learning "
            f"rate schedule. Received: {name}={weight!r}"
        )
    return float(weight)


def check_features(gate: Gate, input_shape: Any) -> int:
    """Returns the number of features in the routing inputs of a gate.

    From then on the gate refuses inputs with another number of features.

    Raises:
        ValueError: If there is no batch axis, or the number is not known.
    """
    shape = tuple(input_shape)
    if len(shape) < 2 or shape[-1] is None:
        raise ValueError(
            f"{type(gate).__name__} reads routing inputs (batch, features) or "
            "(batch, time, features) with a known number of features. "
            f"Received: shape {shape}. Reshape them, or add the batch axis."
        )
    depth = int(shape[-1])
    gate.input_spec = keras.layers.InputSpec(min_ndim=2, axes={-1: depth})
    return depth


def _serialize_weight(weight: RegularizerWeight) -> Any:
    if isinstance(weight, float):
        return weight
    return keras.saving.serialize_keras_object(weight)

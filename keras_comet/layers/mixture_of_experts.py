"""A mixture of experts with one gate."""

from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

from keras_comet._keras import keras
from keras_comet._keras import serializable
from keras_comet.gates.base import Gate
from keras_comet.layers.expert_mixture import ExpertMixture
from keras_comet.layers.mixture_inputs import check_leading_axes
from keras_comet.layers.mixture_inputs import split_inputs
from keras_comet.layers.mixture_inputs import split_shapes
from keras_comet.layers.stacked_dense_experts import StackedDenseExperts


@serializable
class MixtureOfExperts(ExpertMixture):
    """Mixes the outputs of the experts that its gate selects.

    `y = sum_e g_e(routing_inputs) f_e(features)`. The gate decides, this
    layer sends rows to experts and adds up what comes back. With sparse
    dispatch an expert sees only the rows routed to it, and is not called if
    there are none; no row is dropped, and no row's result depends on the
    others. Dense dispatch computes every expert on every row. Both give the
    same result. (An expert that normalizes over its batch, such as
    `BatchNormalization`, sees the routed rows only while training, and is
    exact again at inference.)

    Args:
        experts: list of Keras layers or models with equal output shapes, or
            one `StackedDenseExperts`.
        gate: `Gate` with as many experts.
        dispatch: str. `"sparse"` computes the selected experts, `"dense"`
            all of them; `"auto"` decides for each batch: dense while more
            than half of the weights are not zero. Functions compiled with
            XLA compute densely, as XLA needs fixed shapes. Defaults to
            `"auto"`.

    Call arguments:
        inputs: `features`, or `(features, routing_inputs)` when the gate
            reads something else. Features of rank 4 need routing inputs.
        training: bool. Passed on to the gate and the experts.
        return_routing_weights: bool. Whether to return the gate's routing
            weights as well. Defaults to `False`.

    Input shape:
        features `(batch, ...)`, or `(batch, time, features)` routed by
        token; routing inputs as the gate says.

    Output shape:
        `(batch, *expert_output_shape)`, or `(batch, time,
        *expert_output_shape)`; with `return_routing_weights=True` a tuple of
        it and `(batch, num_experts)`.

    Raises:
        ValueError: If the experts' output shapes differ, the gate has another
            number of experts, `dispatch` is unknown, or the shapes of
            features and routing inputs do not fit.

    Example:

    ```python
    import keras
    import keras_comet

    inputs = keras.Input((16,))
    hidden = keras_comet.MixtureOfExperts(
        [keras.layers.Dense(32, activation="relu") for _ in range(8)],
        keras_comet.COMETGate(8, k=2),
    )(inputs)
    model = keras.Model(inputs, keras.layers.Dense(1)(hidden))
    ```
    """

    def __init__(
        self,
        experts: Sequence[keras.layers.Layer] | StackedDenseExperts,
        gate: Gate,
        dispatch: str = "auto",
        **kwargs: Any,
    ) -> None:
        super().__init__(experts, dispatch=dispatch, **kwargs)
        self.check_gate(gate, "a gate")
        self.gate = gate

    def list_gates(self) -> list[Gate]:
        return [self.gate]

    def build(self, input_shape: Any) -> None:
        features_shape, routing_shape = split_shapes(input_shape)
        given = routing_shape is not None
        if isinstance(routing_shape, Mapping):
            raise ValueError(
                "A mixture with one gate takes one tensor of routing inputs. "
                f"Received: a dict with {sorted(routing_shape)}. Use "
                "MultiGateMixtureOfExperts for several tasks."
            )
        if not self.gate.built:
            self.gate.build(tuple(routing_shape) if given else features_shape)
        self.build_experts(
            check_leading_axes(
                features_shape, self.routing_weights_shape(input_shape), given
            )
        )
        self.built = True

    def call(
        self,
        inputs: Any,
        training: bool | None = None,
        return_routing_weights: bool = False,
    ) -> Any:
        features, routing_inputs = split_inputs(inputs)
        if routing_inputs is None:
            routing_inputs = features
        routing_weights = self.gate(routing_inputs, training=training)
        [mixture] = self.mix(
            features,
            [routing_weights],
            bool(training),
        )
        if return_routing_weights:
            return mixture, routing_weights
        return mixture

    def compute_output_shape(self, input_shape: Any) -> tuple[Any, ...]:
        return self.mixture_shape(
            split_shapes(input_shape)[0],
            self.routing_weights_shape(input_shape),
        )

    def routing_weights_shape(self, input_shape: Any) -> tuple[Any, ...]:
        features_shape, routing_shape = split_shapes(input_shape)
        return self.gate.compute_output_shape(
            features_shape if routing_shape is None else tuple(routing_shape)
        )

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "gate": keras.saving.serialize_keras_object(self.gate),
        }

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: Any = None
    ) -> "MixtureOfExperts":
        config = dict(config)
        config["experts"] = cls.experts_from_config(
            config["experts"], custom_objects
        )
        config["gate"] = keras.saving.deserialize_keras_object(
            config["gate"], custom_objects=custom_objects
        )
        return cls(**config)

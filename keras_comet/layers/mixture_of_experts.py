"""A mixture of experts with one gate."""

from collections.abc import Mapping
from typing import Any

from keras_comet._keras import serializable
from keras_comet.containers import register_user
from keras_comet.containers import serialize_layers
from keras_comet.gates.base import Gate
from keras_comet.layers.expert_group import Experts
from keras_comet.layers.expert_mixture import ExpertMixture
from keras_comet.layers.task_gates import check_gate


@serializable
class MixtureOfExperts(ExpertMixture):
    """Combines the outputs of the experts that its gate selects.

    `y = sum_e g_e(routing_inputs) f_e(features)`. The gate decides, this
    layer sends rows to experts and adds up what comes back. With sparse
    dispatch an expert sees only the rows routed to it, and is not called if
    there are none; no row is dropped, and no row's result depends on the
    others. Dense dispatch computes every expert on every row; the result is
    the same. (`BatchNormalization` in an expert sees the routed rows only
    while training, and is exact again at inference.)

    Args:
        experts: list of Keras layers or models with equal output shapes, or
            one `StackedDenseExperts` or `SharedBaseExperts`.
        gate: `Gate` with as many experts.
        dispatch: str. `"sparse"` computes the selected experts, `"dense"`
            all of them; `"auto"` decides for each batch: dense while more
            than half of the weights are not zero. XLA needs fixed shapes:
            functions compiled with it compute densely, and Keras 3 compiles
            models with it only if all is `"dense"`. Defaults to `"auto"`.
        shared_experts: the same: computed for every row, and added to what is
            combined. Defaults to `()`.

    Call arguments:
        inputs: `features`, or `(features, routing_inputs)` when the gate
            reads something else, as it must for features of rank 4.
        training: bool. Passed on to the gate and the experts.
        return_routing_weights: bool. Whether to return the gate's routing
            weights as well. Defaults to `False`.
        mask: mask of the inputs, which Keras passes on: padding is given to
            no expert, and is 0 in the output. Defaults to `None`.

    Input shape:
        features `(batch, ...)`, or `(batch, time, features)` routed by
        token; routing inputs as the gate says.

    Output shape:
        `(batch, *expert_output_shape)`, or `(batch, time,
        *expert_output_shape)`; with `return_routing_weights=True` a tuple of
        it and `(batch, num_experts)`.

    Raises:
        ValueError: If the experts' output shapes differ, shared ones
            included, the gate has another number of experts, `dispatch` is
            unknown, or the shapes of features and routing inputs do not fit.

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
        experts: Experts,
        gate: Gate,
        dispatch: str = "auto",
        shared_experts: Experts = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(experts, dispatch, shared_experts, **kwargs)
        check_gate(gate, "a gate", self.num_experts)
        self.gate = gate
        register_user([gate])

    def _named_gates(self) -> dict[str, Gate]:
        return {"gate": self.gate}

    def _by_gate(self, routing_inputs: Any) -> dict[str, Any]:
        if isinstance(routing_inputs, Mapping):
            raise ValueError(
                "A mixture with one gate takes one tensor of routing inputs. "
                f"Received: a dict with {sorted(routing_inputs)}. Use "
                "MultiGateMixtureOfExperts for several tasks."
            )
        return {"gate": routing_inputs}

    def _join(self, by_gate: dict[str, Any]) -> Any:
        return by_gate["gate"]

    def get_config(self) -> dict[str, Any]:
        gate = serialize_layers(self.gate, self)
        return {**super().get_config(), "gate": gate}

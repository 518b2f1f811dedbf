"""Turns trained layers and models into mixtures that start equal to them."""

from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_comet._keras import keras
from keras_comet.gates.base import Gate
from keras_comet.gates.comet_gate import COMETGate
from keras_comet.layers.mixture_of_experts import MixtureOfExperts
from keras_comet.layers.stacked_dense_experts import StackedDenseExperts
from keras_comet.models.multi_gate_recommender import MultiGateRecommender


def upcycle(
    layer_or_model: Any,
    num_experts: int,
    make_gate: Callable[[int], Gate] = COMETGate,
    layers: Sequence[str] = (),
    deviation_scale: float | None = 1.0,
    dispatch: str = "auto",
) -> Any:
    """Makes a mixture whose output is that of what was trained.

    Every expert starts as the trained layer, and the weights of a row sum to
    one: going sparse begins where the dense model ended.

    - A layer, or a model without `layers`, becomes a `MixtureOfExperts`.
      `Dense`, or a `Sequential` of `Dense` and `Dropout`, becomes
      `StackedDenseExperts` with the trained kernels as the shared base; any
      other layer is copied for each expert.
    - A functional or `Sequential` model with the names of some of its
      `layers` becomes the same model with mixtures in their place.
    - A `MultiGateRecommender` of one expert becomes one of `num_experts`,
      with a new gate for each task.

    What was given is left as it is. The new model is not compiled.

    Reference:
    - [Komatsuzaki et al., 2023](https://arxiv.org/abs/2212.05055), sparse
      upcycling. Departures: a shared base; weights always sum to one, so that
      nothing needs to be rescaled.

    Args:
        layer_or_model: Keras layer or model, built.
        num_experts: int. Number of experts, at least 1.
        make_gate: function of the number of experts that makes a gate.
            Defaults to `COMETGate`, with its defaults.
        layers: names of the layers of a model that become mixtures. Defaults
            to `()`.
        deviation_scale: float. See `StackedDenseExperts`; `None` for experts
            that share nothing once they have started. Defaults to `1.0`.
        dispatch: str. See `MixtureOfExperts`. Defaults to `"auto"`.

    Returns:
        A `MixtureOfExperts`, or a model of the same kind, built.

    Raises:
        ValueError: If what is given is not built, `layers` are not in the
            model, a recommender has several experts, or a model with `layers`
            is neither functional nor `Sequential`.

    Example:

    ```python
    import keras
    import numpy as np
    import keras_comet

    inputs = keras.Input((8,))
    hidden = keras.layers.Dense(16, "relu", name="bottom")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(1)(hidden))
    sparse = keras_comet.upcycle(model, 4, layers=["bottom"])
    x = np.ones((2, 8), "float32")
    np.abs(sparse(x) - model(x)).max()  # 0.0
    ```
    """
    if not getattr(layer_or_model, "built", False):
        raise ValueError(
            "What is upcycled must be trained, so it must be built. Received: "
            f"{layer_or_model!r}. Call it on a batch first."
        )

    def make_mixture(layer: Any) -> MixtureOfExperts:
        experts = _make_experts(layer, num_experts, deviation_scale)
        gate = make_gate(num_experts)
        return MixtureOfExperts(experts, gate, dispatch, name=layer.name)

    if isinstance(layer_or_model, MultiGateRecommender):
        return _upcycle_recommender(
            layer_or_model, num_experts, make_gate, deviation_scale, dispatch
        )
    if layers:
        return _replace(layer_or_model, set(layers), make_mixture)
    mixture = make_mixture(layer_or_model)
    mixture.build(_input_shape(layer_or_model))
    _start_equal(mixture.experts, layer_or_model)
    return mixture


def _make_experts(
    layer: Any, num_experts: int, deviation_scale: float | None
) -> Any:
    """Makes experts that can start as copies of a layer."""
    dense = _dense_layers(layer)
    if dense is None:
        return [_copy(layer, f"{layer.name}_{e}") for e in range(num_experts)]
    kernels, dropout = dense
    return StackedDenseExperts(
        num_experts,
        [each.units for each in kernels],
        activation=[each.activation for each in kernels],
        dropout=dropout,
        deviation_scale=deviation_scale,
        kernel_initializer=kernels[0].kernel_initializer,
        bias_initializer=kernels[0].bias_initializer,
        kernel_regularizer=kernels[0].kernel_regularizer,
        dtype=layer.dtype_policy,
    )


def _dense_layers(layer: Any) -> tuple[list[Any], float] | None:
    """Reads a perceptron that stacked experts can be equal to.

    Returns:
        A tuple of its dense layers and the rate of its dropout, or `None` if
        it has anything that they lack.
    """
    layers = _parts(layer)
    dense = [each for each in layers if type(each) is keras.layers.Dense]
    others = [each for each in layers if type(each) is not keras.layers.Dense]
    rates = {each.rate for each in others if type(each) is keras.layers.Dropout}
    # After every dense layer, as that of stacked experts is.
    dropped = len(others) == len(dense) and all(
        type(each) is keras.layers.Dropout for each in layers[1::2]
    )
    regularizers = [
        keras.regularizers.serialize(each.kernel_regularizer) for each in dense
    ]
    if (
        not dense
        or (others and not (dropped and len(rates) == 1))
        or any(
            not each.use_bias
            or each.bias_regularizer
            or each.activity_regularizer
            or each.kernel_constraint
            or each.bias_constraint
            or len(each.kernel.shape) != 2
            for each in dense
        )
        or any(each != regularizers[0] for each in regularizers)
    ):
        return None
    return dense, rates.pop() if rates else 0.0


def _parts(layer: Any) -> list[Any]:
    """Returns the layers of a Sequential model, or the layer itself."""
    return layer.layers if isinstance(layer, keras.Sequential) else [layer]


def _copy(layer: Any, name: str) -> Any:
    """Copies a layer without its weights."""
    if isinstance(layer, keras.Model):
        copy = keras.models.clone_model(layer)
        # The only way under both Kerases.
        copy._name = name
        return copy
    return type(layer).from_config({**layer.get_config(), "name": name})


def _start_equal(experts: Any, layer: Any) -> None:
    """Gives built experts the weights of a layer, or of one stacked expert."""
    if not isinstance(experts, StackedDenseExperts):
        for expert in experts:
            expert.set_weights(layer.get_weights())
        return
    names = experts.merged_weights()
    if isinstance(layer, StackedDenseExperts):
        values = [each[0] for each in layer.merged_weights().values()]
    else:
        values = [
            value
            for each in _parts(layer)
            if type(each) is keras.layers.Dense
            for value in each.get_weights()
        ]
    for name, value in zip(names, values, strict=True):
        base, stack = getattr(experts, f"base_{name}"), getattr(experts, name)
        if base is not None:
            base.assign(value)
        else:
            stack.assign(np.broadcast_to(value, stack.shape))


def _input_shape(layer: Any) -> tuple[Any, ...]:
    if isinstance(layer, keras.Model):
        return tuple(layer.input_shape)
    config = layer.get_build_config() or {}
    shape = config.get("input_shape") or config.get("shapes_dict", {}).get(
        "input_shape"
    )
    if shape is None:
        raise ValueError(
            f"The layer {layer.name!r} does not say what it reads. Received: "
            f"{layer!r}. Put it into a Sequential model with an Input."
        )
    return (None, *tuple(shape)[1:])


def _replace(
    model: Any, names: set[str], make_mixture: Callable[[Any], Any]
) -> Any:
    """Clones a model with mixtures in the place of some layers."""
    known = {layer.name: layer for layer in model.layers}
    if not names <= set(known):
        raise ValueError(
            "`layers` must be layers of the model. Received: "
            f"{sorted(names - set(known))}, and a model with {list(known)}"
        )

    def clone(layer: Any) -> Any:
        if layer.name in names:
            return make_mixture(layer)
        return type(layer).from_config(layer.get_config())

    # Refuses models that are neither functional nor Sequential.
    upcycled = keras.models.clone_model(model, clone_function=clone)
    for layer in upcycled.layers:
        trained = known.get(layer.name)
        if layer.name in names:
            _start_equal(layer.experts, trained)
        elif trained is not None:
            layer.set_weights(trained.get_weights())
            layer.trainable = trained.trainable
    return upcycled


def _upcycle_recommender(
    model: MultiGateRecommender,
    num_experts: int,
    make_gate: Callable[[int], Gate],
    deviation_scale: float | None,
    dispatch: str,
) -> MultiGateRecommender:
    if model.task_experts is not None:
        raise ValueError(
            "A recommender that is upcycled must have one expert, which all "
            f"experts start as. Received: task_experts={model.task_experts}. "
            "Train it without `task_experts`."
        )
    one = model.mixture.experts
    if model.mixture.num_experts != 1:
        raise ValueError(
            "A recommender that is upcycled must have one expert, which all "
            f"experts start as. Received: {model.mixture.num_experts} experts"
        )
    stacked = isinstance(one, StackedDenseExperts)
    if stacked:
        experts: Any = StackedDenseExperts.from_config(
            {
                **one.get_config(),
                "num_experts": num_experts,
                "deviation_scale": deviation_scale,
            }
        )
    else:
        experts = _make_experts(one[0], num_experts, deviation_scale)
    gates = {task.name: make_gate(num_experts) for task in model.tasks}
    upcycled = MultiGateRecommender.from_config(
        {
            **model.get_config(),
            "experts": keras.saving.serialize_keras_object(experts),
            "gates": keras.saving.serialize_keras_object(gates),
            "dispatch": dispatch,
        }
    )
    experts = upcycled.mixture.experts
    for ours, theirs in (
        (upcycled.features, model.features),
        (upcycled.towers, model.towers),
        (upcycled.uncertainties, model.uncertainties),
    ):
        for key, layer in ours.items():
            layer.set_weights(theirs[key].get_weights())
    _start_equal(experts, one if stacked else one[0])
    return upcycled

"""Checks of any layer, one function for each promise."""

import inspect
import json
import pathlib
import tempfile
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from keras_comet._keras import flatten_layers
from keras_comet._keras import keras
from keras_comet.gates.base import Gate
from keras_comet.testing.subject import InitKwargs
from keras_comet.testing.subject import Inputs
from keras_comet.testing.subject import make_inputs
from keras_comet.testing.subject import make_layer
from keras_comet.testing.subject import make_model
from keras_comet.testing.subject import make_symbolic
from keras_comet.testing.subject import model_inputs
from keras_comet.testing.subject import require
from keras_comet.testing.subject import scale_floats
from keras_comet.testing.subject import tensorflow_variable
from keras_comet.testing.subject import train
from keras_comet.testing.subject import training_argument

# Takes logits with the default initializers to about 1e4.
_EXTREME = 5e4

_VAR_KEYWORD = inspect.Parameter.VAR_KEYWORD


def check_config(
    layer_class: type, init_kwargs: InitKwargs, inputs: Inputs
) -> None:
    """Config names every constructor argument and makes the layer again.

    Twice as well as once, and from JSON.
    """
    layer = make_layer(layer_class, init_kwargs)
    config = layer.get_config()
    missing = _constructor_arguments(layer_class) - set(config)
    require(
        not missing,
        f"{layer_class.__name__}.get_config() lacks the constructor "
        f"arguments {sorted(missing)}",
    )
    again = layer_class.from_config(config)  # type: ignore[attr-defined]
    serialized = json.dumps(keras.saving.serialize_keras_object(layer))
    revived = keras.saving.deserialize_keras_object(json.loads(serialized))
    twice = layer_class.from_config(  # type: ignore[attr-defined]
        again.get_config()
    )
    for other, way in (
        (again, "from_config"),
        (twice, "from_config twice"),
        (revived, "serialization"),
    ):
        require(
            _plain(other.get_config()) == _plain(config),
            f"{layer_class.__name__} has another config after {way}: "
            f"{_plain(other.get_config())}, not {_plain(config)}",
        )


def check_build(
    layer_class: type, init_kwargs: InitKwargs, inputs: Inputs
) -> None:
    """`build(shape)` alone makes the weights that a call makes."""
    tensors = make_inputs(inputs, 2)
    called, built = (make_layer(layer_class, init_kwargs) for _ in range(2))
    called(tensors)
    built.build(tf.nest.map_structure(lambda x: (None, *x.shape[1:]), tensors))
    shapes = [
        [tuple(weight.shape) for weight in layer.weights]
        for layer in (called, built)
    ]
    require(
        shapes[0] == shapes[1],
        f"{layer_class.__name__}.build() makes weights of shapes {shapes[1]}, "
        f"a call of shapes {shapes[0]}",
    )


def check_shapes(
    layer_class: type, init_kwargs: InitKwargs, inputs: Inputs
) -> None:
    """Symbolic calls, eager calls and `compute_output_shape` agree."""
    layer = make_layer(layer_class, init_kwargs)
    symbolic = layer(make_symbolic(make_inputs(inputs, 1)))
    for batch in (1, 3, None):
        tensors = make_inputs(inputs, batch or 1)
        outputs = symbolic if batch is None else layer(tensors)
        found = tf.nest.map_structure(lambda x: tuple(x.shape), outputs)
        computed = layer.compute_output_shape(
            tf.nest.map_structure(
                lambda x, batch=batch: (batch, *x.shape[1:]), tensors
            )
        )
        require(
            _plain_shapes(computed) == _plain_shapes(found),
            f"{layer_class.__name__}.compute_output_shape() is {computed} for "
            f"a batch of {batch}, a call returns {found}",
        )
        dtypes = [
            [tf.as_dtype(each.dtype) for each in tf.nest.flatten(structure)]
            for structure in (symbolic, outputs)
        ]
        require(
            dtypes[0] == dtypes[1],
            f"{layer_class.__name__} returns {dtypes[1]} in eager mode, "
            f"{dtypes[0]} for symbolic inputs",
        )


def check_gradients(
    layer_class: type,
    init_kwargs: InitKwargs,
    inputs: Inputs,
    without_gradient: Sequence[str] = (),
) -> None:
    """Every trainable weight gets a finite gradient, and is not left out."""
    layer = make_layer(layer_class, init_kwargs)
    tensors = make_inputs(inputs, 8)
    layer(tensors)
    variables = [tensorflow_variable(each) for each in layer.trainable_weights]

    # In a graph, a branch that is not taken has a gradient, of zeros.
    @tf.function
    def differentiate() -> list[tf.Tensor | None]:
        with tf.GradientTape() as tape:
            outputs = layer(tensors, **training_argument(layer))
            loss = tf.add_n(
                [_weigh_sum(each) for each in tf.nest.flatten(outputs)]
                + [tf.cast(each, tf.float32) for each in layer.losses]
            )
        gradients: list[tf.Tensor | None] = tape.gradient(loss, variables)
        return gradients

    for weight, gradient in zip(
        layer.trainable_weights, differentiate(), strict=True
    ):
        name = getattr(weight, "path", weight.name).removesuffix(":0")
        if name.endswith(tuple(without_gradient)):
            continue
        require(
            gradient is not None,
            f"{layer_class.__name__}: weight {name!r} gets no gradient",
        )
        require(
            np.isfinite(tf.convert_to_tensor(gradient)).all(),
            f"{layer_class.__name__}: the gradient of {name!r} is not finite",
        )


def check_compiled_training(
    layer_class: type,
    init_kwargs: InitKwargs,
    inputs: Inputs,
    random: bool = False,
) -> None:
    """Training steps compiled with XLA give the losses of eager ones.

    Layers with string inputs are compiled without XLA, which has no strings,
    and so are those that say `supports_jit = False`.
    """
    tensors = make_inputs(inputs, 4)
    strings = any(each.dtype == tf.string for each in tf.nest.flatten(tensors))
    eager = make_model(layer_class, init_kwargs, tensors, run_eagerly=True)
    with_xla = not strings and all(
        getattr(layer, "supports_jit", True) for layer in flatten_layers(eager)
    )
    models = [
        eager,
        make_model(layer_class, init_kwargs, tensors, jit_compile=with_xla),
    ]
    losses = []
    for model in models:
        model.set_weights(models[0].get_weights())
    for model in models:
        losses.append([train(model, tensors) for _ in range(2)])
        require(
            np.isfinite(losses[-1]).all(),
            f"{layer_class.__name__}: training losses are {losses[-1]}",
        )
    if random:
        return
    np.testing.assert_allclose(
        losses[-1],
        losses[0],
        # The order of sums differs, and the second loss feels the first step.
        rtol=1e-4,
        err_msg=f"{layer_class.__name__}: losses compiled and in eager mode",
    )


def check_mixed_precision(
    layer_class: type, init_kwargs: InitKwargs, inputs: Inputs
) -> None:
    """Half precision: outputs as the policy says, weights float32, finite.

    Gates must stay finite with logits of 1e4 too.
    """
    before = keras.mixed_precision.global_policy()
    try:
        for policy in ("mixed_float16", "mixed_bfloat16"):
            keras.mixed_precision.set_global_policy(policy)
            _check_precision(
                make_layer(layer_class, init_kwargs),
                make_inputs(inputs, 3),
                policy,
            )
    finally:
        keras.mixed_precision.set_global_policy(before)


def _check_precision(layer: Any, tensors: Any, policy: str) -> None:
    if isinstance(layer, Gate):
        tensors = scale_floats(tensors, _EXTREME)
    for output in tf.nest.flatten(layer(tensors, **training_argument(layer))):
        require(
            output.dtype == layer.compute_dtype,
            f"{layer.name} returns {output.dtype} under {policy}, and has "
            f"compute_dtype {layer.compute_dtype}",
        )
        require(
            np.isfinite(tf.cast(output, tf.float32)).all(),
            f"{layer.name} returns {output} under {policy}",
        )
    for weight in layer.trainable_weights:
        require(
            tensorflow_variable(weight).dtype == tf.float32,
            f"{layer.name} keeps {weight.name} in {weight.dtype} under "
            f"{policy}",
        )


def check_policy(
    layer_class: type, init_kwargs: InitKwargs, inputs: Inputs
) -> None:
    """A layer keeps its precision under another global policy."""
    tensors = make_inputs(inputs, 3)
    before = keras.mixed_precision.global_policy()
    try:
        keras.mixed_precision.set_global_policy("mixed_bfloat16")
        layer = make_layer(layer_class, init_kwargs)
        outputs = layer(tensors)
        serialized = json.dumps(keras.saving.serialize_keras_object(layer))
        keras.mixed_precision.set_global_policy("float32")
        revived = keras.saving.deserialize_keras_object(json.loads(serialized))
        found = revived(tensors)
    finally:
        keras.mixed_precision.set_global_policy(before)
    dtypes = [
        [each.dtype for each in tf.nest.flatten(structure)]
        + [
            (type(each).__name__, each.compute_dtype)
            for each in flatten_layers(owner)
            # Keras leaves the policy out of the config of a Sequential.
            if each.weights and not isinstance(each, keras.Sequential)
        ]
        for owner, structure in ((layer, outputs), (revived, found))
    ]
    require(
        dtypes[0] == dtypes[1],
        f"{layer_class.__name__}, made under mixed_bfloat16 and rebuilt under "
        f"float32, has the dtypes {dtypes[1]}, not {dtypes[0]}",
    )


def check_trainable(
    layer_class: type, init_kwargs: InitKwargs, inputs: Inputs
) -> None:
    """A frozen layer is frozen when it is loaded, with all that it holds."""
    tensors = make_inputs(inputs, 3)
    layer = make_layer(layer_class, init_kwargs)
    layer.trainable = False
    serialized = json.dumps(keras.saving.serialize_keras_object(layer))
    revived = keras.saving.deserialize_keras_object(json.loads(serialized))
    revived(tensors)
    trained = [
        weight.name
        for each in flatten_layers(revived)
        for weight in each.trainable_weights
    ]
    require(
        not trained,
        f"{layer_class.__name__} was frozen; rebuilt, it trains {trained}",
    )


def check_saving(
    layer_class: type, init_kwargs: InitKwargs, inputs: Inputs
) -> None:
    """A saved model has the same weights, predicts and trains equally.

    Saved as `.keras`, `.weights.h5` and as a TensorFlow checkpoint.
    """
    name = layer_class.__name__
    tensors = make_inputs(inputs, 4)
    model = make_model(layer_class, init_kwargs, tensors, run_eagerly=True)
    train(model, tensors)
    expected = model(model_inputs(tensors), training=False)
    with tempfile.TemporaryDirectory() as directory:
        path = pathlib.Path(directory)
        model.save(path / "model.keras")
        model.save_weights(path / "model.weights.h5")
        checkpoint = tf.train.Checkpoint(model=model)
        checkpoint.write(str(path / "checkpoint"))
        loaded = keras.models.load_model(path / "model.keras")
        _check_loaded(loaded, model, tensors, expected, f"{name} after .keras")
        copy = keras.models.clone_model(model)
        copy.load_weights(path / "model.weights.h5")
        way = f"{name} after .weights.h5"
        _check_loaded(copy, model, tensors, expected, way)
        for weight in copy.weights:
            weight.assign(tf.zeros_like(weight))
        tf.train.Checkpoint(model=copy).read(
            str(path / "checkpoint")
        ).assert_existing_objects_matched()
        way = f"{name} after a checkpoint"
        _check_loaded(copy, model, tensors, expected, way)
    np.testing.assert_allclose(
        train(loaded, tensors),
        train(model, tensors),
        rtol=1e-6,
        err_msg=f"{name} after .keras: the next training loss",
    )


def _check_loaded(
    loaded: Any, model: Any, tensors: Any, expected: tf.Tensor, way: str
) -> None:
    for weight, saved in zip(loaded.weights, model.weights, strict=True):
        np.testing.assert_array_equal(
            tf.convert_to_tensor(weight),
            tf.convert_to_tensor(saved),
            err_msg=f"{way}: {saved.name}",
        )
    np.testing.assert_allclose(
        loaded(model_inputs(tensors), training=False),
        expected,
        rtol=1e-6,
        err_msg=f"{way}: predictions",
    )


LAYER_CHECKS: tuple[Callable[..., None], ...] = (
    check_config,
    check_build,
    check_shapes,
    check_gradients,
    check_compiled_training,
    check_mixed_precision,
    check_policy,
    check_trainable,
    check_saving,
)


def _constructor_arguments(layer_class: type) -> set[str]:
    """All named arguments, those that `**kwargs` takes on included."""
    names: set[str] = set()
    for base in layer_class.__mro__:
        if base is keras.layers.Layer:
            break
        if "__init__" not in vars(base):
            continue
        parameters = inspect.signature(vars(base)["__init__"]).parameters
        kinds = {name: each.kind for name, each in parameters.items()}
        variadic = (inspect.Parameter.VAR_POSITIONAL, _VAR_KEYWORD)
        names |= {name for name, kind in kinds.items() if kind not in variadic}
        if _VAR_KEYWORD not in kinds.values():
            break
    return names - {"self"}


def _plain(config: Any) -> Any:
    """Without the ids of shared objects, which are others in a copy."""

    def drop_ids(found: dict[str, Any]) -> dict[str, Any]:
        found.pop("shared_object_id", None)
        return found

    return json.loads(json.dumps(config, sort_keys=True), object_hook=drop_ids)


def _plain_shapes(shapes: Any) -> Any:
    if isinstance(shapes, Mapping):
        return {key: _plain_shapes(shape) for key, shape in shapes.items()}
    if isinstance(shapes, (tuple, list, tf.TensorShape)):
        return [_plain_shapes(shape) for shape in shapes]
    return shapes


def _weigh_sum(outputs: tf.Tensor) -> tf.Tensor:
    """Unequal weights, as the plain sum of a gate's row is constant."""
    weights = tf.linspace(-1.0, 1.0, outputs.shape[-1])
    return tf.reduce_sum(tf.cast(outputs, tf.float32) * weights)

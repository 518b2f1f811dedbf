"""Makes the layer under test, its inputs, and a model around it."""

import inspect
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from keras_comet._keras import KERAS_3
from keras_comet._keras import keras

InitKwargs = Mapping[str, Any] | Callable[[], Mapping[str, Any]]
Inputs = Sequence[int] | Callable[[int], Any]


def require(condition: Any, message: str) -> None:
    """Raises an AssertionError with this message unless the condition holds."""
    if not condition:
        raise AssertionError(message)


def make_kwargs(init_kwargs: InitKwargs) -> dict[str, Any]:
    """A dict of constructor arguments, new layers among them."""
    return dict(init_kwargs() if callable(init_kwargs) else init_kwargs)


def make_layer(layer_class: type, init_kwargs: InitKwargs) -> Any:
    """A new layer."""
    return layer_class(**make_kwargs(init_kwargs))


def make_inputs(inputs: Inputs, batch: int) -> Any:
    """Tensors for a batch: standard normal numbers if only a shape is given."""
    if callable(inputs):
        made = inputs(batch)
    else:
        shape = (batch, *inputs)
        made = np.random.default_rng(batch).normal(size=shape)
        made = made.astype("float32")
    return tf.nest.map_structure(tf.convert_to_tensor, made)


def make_symbolic(tensors: Any) -> Any:
    """Keras inputs for any batch of such tensors."""
    return tf.nest.map_structure(
        lambda x: keras.Input(tuple(x.shape[1:]), dtype=x.dtype.name), tensors
    )


def scale_floats(tensors: Any, scale: float) -> Any:
    """Multiplies float tensors, and leaves ids as they are."""
    return tf.nest.map_structure(
        lambda x: x * scale if x.dtype.is_floating else x, tensors
    )


def training_argument(layer: Any) -> dict[str, bool]:
    """`training=True`, for layers whose `call` takes it."""
    parameters = inspect.signature(layer.call).parameters
    return {"training": True} if "training" in parameters else {}


def tensorflow_variable(weight: Any) -> tf.Variable:
    """The variable that a gradient tape knows a weight by."""
    return weight.value if KERAS_3 else weight


def make_model(
    layer_class: type,
    init_kwargs: InitKwargs,
    tensors: Any,
    jit_compile: bool = False,
    run_eagerly: bool = False,
) -> Any:
    """The layer with one prediction on top of all its outputs, compiled."""
    symbolic = make_symbolic(tensors)
    outputs = tf.nest.flatten(make_layer(layer_class, init_kwargs)(symbolic))
    flat = [keras.layers.Flatten()(output) for output in outputs]
    joined = keras.layers.Concatenate()(flat) if len(flat) > 1 else flat[0]
    model = keras.Model(model_inputs(symbolic), keras.layers.Dense(1)(joined))
    optimizer = keras.optimizers.SGD(0.01, momentum=0.9)
    # Variables made inside of a training step would have it traced twice.
    optimizer.build(model.trainable_variables)
    model.compile(
        optimizer, "mse", jit_compile=jit_compile, run_eagerly=run_eagerly
    )
    return model


def model_inputs(tensors: Any) -> Any:
    """What a model of `make_model` takes: a list, or the only tensor."""
    flat = tf.nest.flatten(tensors)
    # Older releases of Keras 3 warn of a list of one.
    return flat if len(flat) > 1 else flat[0]


def train(model: Any, tensors: Any) -> float:
    """Takes one training step towards targets of one; returns its loss."""
    [first, *_] = tf.nest.flatten(tensors)
    targets = np.ones((first.shape[0], 1))
    # Older releases of Keras 3 return the mean over all steps.
    model.reset_metrics()
    loss = model.train_on_batch(model_inputs(tensors), targets)
    return float(np.ravel(loss)[0])

"""Which Keras the package builds on; the only module that asks.

Keras 3 by default, Keras 2 (`tf_keras`) when `TF_USE_LEGACY_KERAS=1` was set
before TensorFlow was imported. Layers are written with TensorFlow ops, which
run inside the layers of either one.
"""

import functools
import inspect
import os
import zlib
from typing import Any

from keras_comet._versions import warn_if_newer

try:
    import tensorflow as tf
except ImportError as error:
    raise ImportError(
        "keras_comet needs TensorFlow, which cannot be imported here. "
        "Install it with `pip install 'tensorflow>=2.18'`."
    ) from error

__all__ = [
    "KERAS_3",
    "aggregation",
    "flatten_layers",
    "keep_frozen",
    "keras",
    "serializable",
    "tf_variable",
]

# TensorFlow itself reads the variable with exactly this test.
_LEGACY = os.environ.get("TF_USE_LEGACY_KERAS") in ("true", "True", "1")

_OTHER_BACKEND = (
    "keras_comet runs on the TensorFlow backend of Keras 3, but the backend "
    "configured here is {backend!r}. Set KERAS_BACKEND=tensorflow before "
    "Keras is imported (or edit ~/.keras/keras.json)."
)

if _LEGACY:
    try:
        import tf_keras as keras
    except ImportError as error:
        raise ImportError(
            "TF_USE_LEGACY_KERAS=1 asks for Keras 2, but `tf_keras` cannot be "
            "imported. Install it with `pip install tf_keras`, or unset "
            "TF_USE_LEGACY_KERAS to use Keras 3."
        ) from error
else:
    try:
        import keras
    except ImportError as error:
        backend = os.environ.get("KERAS_BACKEND", "tensorflow")
        if backend == "tensorflow":
            raise
        raise ImportError(_OTHER_BACKEND.format(backend=backend)) from error

KERAS_3 = int(keras.__version__.split(".")[0]) >= 3

if KERAS_3 and keras.backend.backend() != "tensorflow":
    raise ImportError(_OTHER_BACKEND.format(backend=keras.backend.backend()))

if keras.layers.Layer is not tf.keras.layers.Layer:
    raise ImportError(
        "TF_USE_LEGACY_KERAS changed after TensorFlow had chosen its Keras: "
        f"tf.keras is not {keras.__name__} {keras.__version__}. Set the "
        "variable before TensorFlow is imported, in the whole process."
    )

warn_if_newer({"tensorflow": tf.__version__, keras.__name__: keras.__version__})

# What reading a config raises that does not say what is wrong with it.
_UNREADABLE = (
    ArithmeticError,
    AttributeError,
    LookupError,
    NotImplementedError,
    RecursionError,
    zlib.error,
)


def serializable(cls: Any) -> Any:
    """Registers a class with Keras, and has it name a config it cannot read.

    Files may be damaged, or of another version: `from_config` raises
    ValueError or TypeError, and nothing else.

    Args:
        cls: class with `get_config` and `from_config`.

    Returns:
        The class.
    """
    read = cls.from_config.__func__
    takes_objects = "custom_objects" in inspect.signature(read).parameters

    @functools.wraps(read)
    def from_config(
        cls: Any, config: dict[str, Any], custom_objects: Any = None
    ) -> Any:
        scope = keras.saving.custom_object_scope(custom_objects or {})
        objects = (custom_objects,) if takes_objects else ()
        try:
            with scope:
                return read(cls, config, *objects)
        except _UNREADABLE as error:
            raise ValueError(
                f"The config of {cls.__name__} cannot be read. Expected: what "
                "`get_config` of this version of the package returns. "
                f"Received: {type(error).__name__} ({error}) in {config}"
            ) from error

    cls.from_config = classmethod(from_config)
    return keras.saving.register_keras_serializable(package="keras_comet")(cls)


def aggregation(name: str) -> Any:
    """Spells a variable aggregation as the Keras in use expects it.

    Without an aggregation the copies of a non-trainable variable drift apart
    under a distribution strategy, in silence.

    Args:
        name: str. `"mean"` or `"only_first_replica"`.

    Returns:
        The value for `add_weight(aggregation=...)`.
    """
    return name if KERAS_3 else getattr(tf.VariableAggregation, name.upper())


def flatten_layers(layer: Any) -> list[Any]:
    """Lists a layer or model and every layer inside it, at any depth."""
    return list(layer._flatten_layers(include_self=True, recursive=True))


def keep_frozen(layer: Any) -> None:
    """Freezes what is inside of frozen layers, after a layer was built.

    A layer made with `trainable=False`, as by `load_model`, passes that on to
    its variables but not to the layers inside, which Keras 3 would train.

    Args:
        layer: layer or model.
    """
    for frozen in flatten_layers(layer):
        if not frozen.trainable:
            for inside in flatten_layers(frozen):
                inside.trainable = False


def tf_variable(variable: Any) -> Any:
    """Returns the `tf.Variable` behind a Keras variable."""
    return variable.value if KERAS_3 else variable

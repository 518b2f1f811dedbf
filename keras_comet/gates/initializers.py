"""Initial values for kernels with more than two axes."""

import math
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from keras_comet._keras import keras

# Spread of a logit over examples whose features have unit variance.
_SPREAD = 0.2


def as_matrix(initializer: Any) -> Callable[..., tf.Tensor]:
    """Lets an initializer see `(d, k, m)` as the matrix `(d, k * m)`.

    Keras would take the leading axis for the window of a convolution and
    scale by the wrong number of inputs. The initializer is copied, so that
    a seeded one can be used for several variables.

    Args:
        initializer: a Keras initializer, or its name.

    Returns:
        A function of shape and dtype for `add_weight(initializer=...)`.
    """
    initializer = keras.initializers.get(initializer)
    if hasattr(initializer, "from_config"):
        initializer = initializer.from_config(initializer.get_config())

    def initialize(shape: Any, dtype: Any = None, **kwargs: Any) -> tf.Tensor:
        depth, *units = tuple(shape)
        values = initializer((depth, math.prod(units)), dtype=dtype)
        return tf.reshape(tf.convert_to_tensor(values), shape)

    return initialize


def small_logits(scale: float = 1.0) -> Any:
    """Kernels that start logits at a spread of `0.2 * scale`.

    That is within a smooth-step of width `scale` for nearly all examples
    with features of unit variance, so that every split starts undecided and
    has a gradient.

    Args:
        scale: float. The width gamma, for the logits of smooth-steps.

    Returns:
        A Keras initializer.
    """
    return keras.initializers.VarianceScaling(
        scale=(_SPREAD * scale) ** 2, mode="fan_in"
    )


def one_by_one(initializer: Any) -> Callable[..., tf.Tensor]:
    """Lets an initializer draw each matrix of a stack as one of its own.

    Args:
        initializer: a Keras initializer.

    Returns:
        A function of shape and dtype for `add_weight(initializer=...)`.
    """

    def initialize(shape: Any, dtype: Any = None, **_: Any) -> tf.Tensor:
        draws = [
            copy_of(initializer, index)(tuple(shape)[1:], dtype=dtype)
            for index in range(shape[0])
        ]
        return tf.stack([tf.convert_to_tensor(draw) for draw in draws])

    return initialize


def copy_of(initializer: Any, index: int = 0) -> Any:
    """Copies an initializer, so that one can be used for several variables.

    Args:
        initializer: a Keras initializer.
        index: int. Copies draw other numbers for each index, from seeds of
            their own if the initializer has one. Defaults to `0`.

    Returns:
        A Keras initializer.
    """
    config = keras.initializers.serialize(initializer)
    if isinstance(config, dict) and "seed" in config.get("config", {}):
        seed = config["config"]["seed"]
        if isinstance(seed, int):
            config["config"]["seed"] = seed + index
    return keras.initializers.get(config)

"""The state of random numbers that a layer draws in training."""

from typing import Any

import tensorflow as tf

from keras_comet._keras import aggregation
from keras_comet._keras import keras


def add_seed_state(layer: keras.layers.Layer, seed: int | None) -> Any:
    """Adds the variable `seed_state` to a layer, which saves and resumes it.

    Args:
        layer: layer that is being built.
        seed: int, or `None` for a random one.

    Returns:
        An int32 variable `(2,)`, not trainable.
    """
    return layer.add_weight(
        name="seed_state",
        shape=(2,),
        dtype="int32",
        initializer=(
            keras.initializers.RandomUniform(0, 2**31 - 1)
            if seed is None
            else keras.initializers.Constant(seed)
        ),
        trainable=False,
        aggregation=aggregation("only_first_replica"),
    )


def next_seed(seed_state: Any) -> tf.Tensor:
    """Returns the seed of now, and moves the state on to the next one."""
    seed = tf.convert_to_tensor(seed_state)
    seed_state.assign(seed + [1, 0])
    return seed

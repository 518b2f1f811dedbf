"""What Keras 3 cannot do on several workers, said before it begins."""

from typing import Any

import tensorflow as tf

from keras_comet._keras import KERAS_3

_STRATEGIES = (
    tf.distribute.MultiWorkerMirroredStrategy,
    tf.distribute.ParameterServerStrategy,
)


def check_workers(model: Any, method: str, remedy: str) -> None:
    """Refuses what fails in Keras 3.

    Args:
        model: Keras model.
        method: str. What is to run.
        remedy: str. What to do about it.

    Raises:
        ValueError: If the model was made for several workers, under Keras 3.
    """
    strategy = model.distribute_strategy
    if KERAS_3 and isinstance(strategy, _STRATEGIES):
        raise ValueError(
            f"Keras 3 has no `{method}` on several workers. {remedy} Keras 2 "
            "(`tf_keras`) has it. Received: a model made under "
            f"`{type(strategy).__name__}`, of "
            f"{strategy.num_replicas_in_sync} replicas"
        )

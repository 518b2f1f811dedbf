"""What processes that train together must agree on."""

from typing import Any

import tensorflow as tf


def is_chief(model: Any) -> bool:
    """Whether this process is the one that writes checkpoints.

    Args:
        model: Keras model.
    """
    return bool(model.distribute_strategy.extended.should_checkpoint)


def check_no_parameter_servers(model: Any) -> None:
    """Refuses a strategy whose workers would have nothing to do.

    Args:
        model: Keras model.

    Raises:
        ValueError: If the model was made for parameter servers.
    """
    strategy = model.distribute_strategy
    if isinstance(strategy, tf.distribute.ParameterServerStrategy):
        raise ValueError(
            "`Trainer` gives workers of parameter servers nothing to compute. "
            "Use `MultiWorkerMirroredStrategy`, or `fit` of Keras 2. "
            "Received: a model made under `ParameterServerStrategy`"
        )


def check_same_update(model: Any, update: int) -> None:
    """Compares how far the training is in all replicas.

    Args:
        model: Keras model.
        update: int. Number of finished updates, here.

    Raises:
        ValueError: If it is another number elsewhere.
    """
    strategy = model.distribute_strategy
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return

    @tf.function
    def gather() -> Any:
        return strategy.run(
            lambda: tf.distribute.get_replica_context().all_gather(
                tf.constant([update], tf.int64), axis=0
            )
        )

    updates = strategy.experimental_local_results(gather())[0].numpy().tolist()
    if len(set(updates)) > 1:
        raise ValueError(
            "All workers must resume from the same checkpoint. Expected: a "
            "`checkpoint_dir` that all of them see, on a shared file system. "
            f"Received: checkpoints after {updates} updates, by worker"
        )

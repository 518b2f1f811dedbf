"""One search by exchanges, on one batch, for any compiled model."""

from typing import Any

import tensorflow as tf

from keras_comet._keras import KERAS_3
from keras_comet._keras import flatten_layers
from keras_comet._keras import keras
from keras_comet.gates.expert_permutation import ExpertPermutation
from keras_comet.optimizers import LocalSearchOptimizer
from keras_comet.optimizers import SearchReport


def find_local_search(optimizer: Any) -> LocalSearchOptimizer:
    """Returns the `LocalSearchOptimizer` inside of an optimizer.

    Args:
        optimizer: Keras optimizer; others may be around the one looked for,
            `LossScaleOptimizer` for example.

    Raises:
        ValueError: If there is none.
    """
    inner = optimizer
    while inner is not None and not isinstance(inner, LocalSearchOptimizer):
        inner = getattr(inner, "inner_optimizer", None)
    if inner is None:
        raise ValueError(
            "Local search needs a model that is compiled with a "
            "LocalSearchOptimizer. Received: "
            f"optimizer={optimizer!r}. Compile with "
            "`LocalSearchOptimizer(optimizer, search_steps)`."
        )
    return inner


def find_searched(model: Any) -> list[ExpertPermutation]:
    """Lists the permutations of a model that may be searched, each once."""
    found = {
        id(layer): layer
        for layer in flatten_layers(model)
        if isinstance(layer, ExpertPermutation) and layer.trainable
    }
    return list(found.values())


def search_step(
    model: Any,
    batch: Any,
    max_evaluations: int | None = None,
    max_seconds: float | None = None,
) -> SearchReport:
    """Searches the permutations of a model on the loss of one batch.

    Args:
        model: Keras model, compiled with a `LocalSearchOptimizer` of the
            method `"exchange"`.
        batch: tuple `(x, y)` or `(x, y, sample_weight)`.
        max_evaluations: int. As in `LocalSearchOptimizer.search`.
        max_seconds: float. As in `LocalSearchOptimizer.search`.

    Returns:
        The report. Metrics of the model are left as they were.
    """
    optimizer = find_local_search(model.optimizer)
    weigh = getattr(model, "weigh_labels", lambda batch: batch)
    x, y, weights = keras.utils.unpack_x_y_sample_weight(weigh(batch))

    def compute_loss() -> tf.Tensor:
        outputs = model(x, training=False)
        arguments = {"training": False} if KERAS_3 else {}
        return model.compute_loss(x, y, outputs, weights, **arguments)

    # compute_loss also updates the running means that fit() reports.
    variables = [v for metric in model.metrics for v in metric.variables]
    values = [tf.identity(tf.convert_to_tensor(v)) for v in variables]
    try:
        return optimizer.search(
            compute_loss, find_searched(model), max_evaluations, max_seconds
        )
    finally:
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)

"""The recommender of the MovieLens example, for several benchmarks."""

from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

import keras_comet
from keras_comet import datasets

NUM_EXPERTS = 16
K = 2
BATCH = 512


def load_data(smoke: bool) -> datasets.MultitaskDataset:
    """MovieLens-100k, or the synthetic set for a quick look.

    Raises:
        OSError: If MovieLens is neither cached nor can be fetched.
    """
    if smoke:
        return datasets.synthetic_multitask(num_rows=2048)
    return datasets.movielens_100k()


def make_model(
    data: datasets.MultitaskDataset,
    dispatch: str,
    experts: Sequence[keras.layers.Layer] | keras_comet.StackedDenseExperts,
    make_gate: Callable[[], keras_comet.Gate] | None = None,
    optimizer: keras.optimizers.Optimizer | None = None,
    seed: int = 0,
    tower_units: int = 256,
    **compile_arguments: Any,
) -> keras_comet.MultiGateRecommender:
    """Embeddings of 128, the experts, a gate and a tower for each task.

    Args:
        data: data set, MovieLens or synthetic.
        dispatch: str. As in `MixtureOfExperts`.
        experts: 16 of them, or another number.
        make_gate: function that makes the gate of a task. Defaults to
            `None`: COMET, k=2.
        optimizer: Keras optimizer. Defaults to `None`: Adam.
        seed: int. Of everything random from here on. Defaults to `0`.
        tower_units: int. Width of the task towers. Defaults to `256`.
        **compile_arguments: as in `MultiGateRecommender.compile`.

    Returns:
        The model, compiled.
    """
    keras.utils.set_random_seed(seed)
    num_experts = (
        experts.num_experts
        if isinstance(experts, keras_comet.StackedDenseExperts)
        else len(experts)
    )
    features: dict[str, Any] = {}
    for name, values in data.train.features.items():
        if name in data.vocabularies:
            features[name] = keras_comet.CategoricalFeature(
                data.vocabularies[name], embedding_dim=128
            )
        else:
            features[name] = keras_comet.NumericFeature(
                values.mean(axis=0), values.var(axis=0)
            )
    binary, *others = data.train.labels
    tasks = [
        keras_comet.Task(
            binary,
            loss="binary_crossentropy",
            metrics=[keras.metrics.AUC(name="auc")],
            weight=0.9,
            activation="sigmoid",
        ),
        *(
            keras_comet.Task(
                name,
                loss="mse",
                metrics=[keras.metrics.RootMeanSquaredError(name="rmse")],
                weight=0.1 / len(others),
                missing_label=0.0 if binary == "watch" else float("nan"),
            )
            for name in others
        ),
    ]
    model = keras_comet.MultiGateRecommender(
        features=features,
        experts=experts,
        gates={
            task.name: (
                make_gate()
                if make_gate is not None
                else keras_comet.COMETGate(
                    num_experts, k=K, entropy_weight=0.01
                )
            )
            for task in tasks
        },
        tasks=tasks,
        tower_units=[tower_units],
        dispatch=dispatch,
    )
    model.compile(optimizer or keras.optimizers.Adam(5e-4), **compile_arguments)
    return model


def dense_experts(num_experts: int = NUM_EXPERTS) -> list[keras.layers.Layer]:
    """The experts of the paper: Dense(256), relu, Dropout(0.5)."""
    keras.utils.set_random_seed(0)
    return [
        keras.Sequential(
            [
                keras.layers.Dense(256, activation="relu"),
                keras.layers.Dropout(0.5),
            ]
        )
        for _ in range(num_experts)
    ]


def cardinality(
    model: keras_comet.MultiGateRecommender,
    data: datasets.MultitaskDataset,
) -> dict[str, float]:
    """Experts per row, by task, and of all tasks together under "any"."""
    rows = {n: v[:4096] for n, v in data.validation.features.items()}
    chosen = {
        task: np.asarray(weights) > 0.0
        for task, weights in keras_comet.routing_weights(model, rows).items()
    }
    chosen["any"] = np.any(list(chosen.values()), axis=0)
    return {
        task: float(each.sum(axis=1).mean()) for task, each in chosen.items()
    }

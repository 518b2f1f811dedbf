"""The MovieLens model of the COMET paper, for any gate.

A user and a film, as embeddings of 128; 16 experts `Dense(256)` with dropout;
for each task a gate of its own and a tower. What all examples, benchmarks and
studies on MovieLens train is built here. The synthetic data set, which stands
in for MovieLens, gets the same model.
"""

from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

import keras_comet
from keras_comet import datasets

NUM_EXPERTS = 16
K = 2
BATCH_SIZE = 512
# Width of the embeddings of all but users and films.
SIDE_DIM = 16


def load_data(
    smoke: bool,
    fall_back: bool = False,
    smoke_tasks: int = 1,
    side_features: bool = False,
) -> datasets.MultitaskDataset:
    """Loads MovieLens-100k, or a few synthetic rows for a quick look.

    Args:
        smoke: bool. Whether a quick look is wanted.
        fall_back: bool. Whether to say so and go on with synthetic rows
            where MovieLens cannot be had. Defaults to `False`.
        smoke_tasks: int. Number of tasks of the quick look. Defaults to `1`.
        side_features: bool. Whether to load more than the ids of users and
            films. Defaults to `False`.
    """
    if smoke:
        return datasets.synthetic_multitask(640, num_tasks=smoke_tasks)
    try:
        return datasets.movielens_100k(side_features=side_features)
    except OSError as error:
        if not fall_back:
            raise
        print(f"{error}\nGoing on with the synthetic data set.")
        return datasets.synthetic_multitask(num_rows=4096)


def make_features(
    data: datasets.MultitaskDataset,
    embedding_dim: int = 128,
    side_dim: int = SIDE_DIM,
) -> dict[str, Any]:
    """Embeds ids, and what else is known of users and films.

    The films that a user has watched are embedded like the film in question,
    by the same table.
    """
    tables = {
        name: keras_comet.EmbeddingTable(
            values, embedding_dim if name.endswith("_id") else side_dim
        )
        for name, values in data.vocabularies.items()
    }
    features: dict[str, Any] = {}
    for name, values in data.train.features.items():
        if name == "history":
            films = tables["item_id"]
            length = values.shape[1]
            features[name] = keras_comet.SequenceFeature(
                films, max_length=length
            )
        elif name == "genres":
            features[name] = keras_comet.MultiCategoricalFeature(tables[name])
        elif name in tables:
            features[name] = keras_comet.CategoricalFeature(tables[name])
        else:
            features[name] = keras_comet.NumericFeature(
                np.nanmean(values, axis=0), np.nanvar(values, axis=0)
            )
    return features


def make_tasks(data: datasets.MultitaskDataset) -> list[keras_comet.Task]:
    """A binary first task, weight 0.9, and regression on what is labelled."""
    binary, *others = data.train.labels
    # A film that was not watched has no rating.
    missing_label = 0.0 if binary == "watch" else float("nan")
    return [
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
                missing_label=missing_label,
            )
            for name in others
        ),
    ]


def make_experts(
    num_experts: int = NUM_EXPERTS, units: int = 256, dropout: float = 0.5
) -> list[keras.layers.Layer]:
    """The experts of the paper: one relu layer, then dropout."""
    return [
        keras.Sequential(
            [
                keras.layers.Dense(units, activation="relu"),
                keras.layers.Dropout(dropout),
            ]
        )
        for _ in range(num_experts)
    ]


def make_model(
    data: datasets.MultitaskDataset,
    make_gate: Callable[[], keras_comet.Gate],
    experts: Sequence[keras.layers.Layer]
    | keras_comet.StackedDenseExperts
    | None = None,
    optimizer: keras.optimizers.Optimizer | None = None,
    *,
    embedding_dim: int = 128,
    tower_units: int = 256,
    dispatch: str = "auto",
    **compile_arguments: Any,
) -> keras_comet.MultiGateRecommender:
    """Makes the model, compiled.

    Args:
        data: `MultitaskDataset`. Gives vocabularies and tasks.
        make_gate: function that makes the gate of one task, over as many
            experts as there are.
        experts: list of Keras layers, or `StackedDenseExperts`. Defaults to
            `None`: `make_experts()`.
        optimizer: Keras optimizer. Defaults to `None`: Adam at 5e-4.
        embedding_dim: int. Defaults to `128`.
        tower_units: int. Width of each task's tower. Defaults to `256`.
        dispatch: str. As in `MixtureOfExperts`. Defaults to `"auto"`.
        **compile_arguments: as in `MultiGateRecommender.compile`.
    """
    tasks = make_tasks(data)
    model = keras_comet.MultiGateRecommender(
        features=make_features(data, embedding_dim),
        experts=make_experts() if experts is None else experts,
        gates={task.name: make_gate() for task in tasks},
        tasks=tasks,
        tower_units=[tower_units],
        dispatch=dispatch,
    )
    model.compile(optimizer or keras.optimizers.Adam(5e-4), **compile_arguments)
    # Keras traces the first step twice if that creates variables of the
    # optimizer and the metrics, half a minute with many experts.
    model.optimizer.build(model.trainable_variables)
    model.test_step(next(iter(data.train.batches(1))))
    model.reset_metrics()
    return model

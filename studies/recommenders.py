"""Recommenders of any arm."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence

import keras_comet
from keras_comet import datasets
from studies.study import Arm
from studies.study import Models
from studies.study import Objective

_LOSSES = {"binary": "binary_crossentropy", "regression": "mse"}


def make_recommenders(
    data: datasets.MultitaskDataset,
    objectives: Sequence[Objective],
    arm: Arm,
    *,
    embedding_dims: Mapping[str, int],
    units: int,
    tower_units: int,
    dropout: float = 0.0,
    hash_feature: str | None = None,
) -> Models:
    """Makes one recommender for all tasks, or one for each.

    Args:
        data: data set.
        objectives: list of `Objective`, binary or regression.
        arm: `Arm`.
        embedding_dims: dict from categorical feature to its width; all
            others are numeric.
        units: int. Width of an expert.
        tower_units: int. Width of a task tower.
        dropout: float. Of the experts. Defaults to `0.0`.
        hash_feature: str. What a hash gate reads. Defaults to `None`: the
            first categorical feature.

    Returns:
        `Models`.
    """
    tasks = [
        keras_comet.Task(
            each.task,
            loss=_LOSSES[each.kind],
            weight=each.weight,
            activation="sigmoid" if each.kind == "binary" else None,
            missing_label=each.missing,
        )
        for each in objectives
    ]

    def make_experts(num_experts: int) -> keras_comet.StackedDenseExperts:
        return keras_comet.StackedDenseExperts(
            num_experts,
            units * arm.width,
            activation="relu",
            dropout=dropout,
            deviation_scale=arm.deviation_scale,
        )

    return {
        tuple(task.name for task in group): keras_comet.MultiGateRecommender(
            features=_make_features(data, embedding_dims),
            experts=make_experts(arm.num_experts - arm.task_experts),
            task_experts={
                task.name: make_experts(arm.task_experts) for task in group
            }
            if arm.task_experts
            else None,
            gates={task.name: arm.make_gate() for task in group},
            tasks=group,
            tower_units=[tower_units],
            hash_feature=hash_feature,
        )
        for group in ([[task] for task in tasks] if arm.apart else [tasks])
    }


def _make_features(
    data: datasets.MultitaskDataset, embedding_dims: Mapping[str, int]
) -> dict[str, keras_comet.CategoricalFeature | keras_comet.NumericFeature]:
    features = {}
    for name, values in data.train.features.items():
        if name in embedding_dims:
            features[name] = keras_comet.CategoricalFeature(
                data.vocabularies[name], embedding_dim=embedding_dims[name]
            )
        else:
            features[name] = keras_comet.NumericFeature(
                values.mean(axis=0), values.var(axis=0)
            )
    return features

"""Recommenders of any arm."""

from __future__ import annotations

from collections.abc import Sequence

import keras_comet
from examples import movielens_model
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
    side_dim: int = movielens_model.SIDE_DIM,
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
        side_dim: int. Width of the embeddings of all but users and films.
            Defaults to `16`.
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
            features=movielens_model.make_features(data, side_dim=side_dim),
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

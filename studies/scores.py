"""Losses and scores of predictions, by task, computed in NumPy."""

from __future__ import annotations

import math
from collections.abc import Mapping
from collections.abc import Sequence

import numpy as np

from studies.study import Objective

_SMALLEST = 1e-7  # as in Keras, so that no prediction costs infinity


def total_loss(
    objectives: Sequence[Objective],
    labels: Mapping[str, np.ndarray],
    predictions: Mapping[str, np.ndarray],
) -> float:
    """Sums the weighted mean losses of the tasks.

    Args:
        objectives: list of `Objective`.
        labels: dict from task to array `(rows,)`.
        predictions: dict from task to array `(rows, units)`.

    Returns:
        The loss.
    """
    losses = task_losses(objectives, labels, predictions)
    return sum(each.weight * losses[each.task] for each in objectives)


def task_losses(
    objectives: Sequence[Objective],
    labels: Mapping[str, np.ndarray],
    predictions: Mapping[str, np.ndarray],
) -> dict[str, float]:
    """Computes the mean loss of each task, without its weight.

    Args:
        objectives: list of `Objective`.
        labels: dict from task to array `(rows,)`.
        predictions: dict from task to array `(rows, units)`.

    Returns:
        A dict from task to loss.
    """
    return {
        each.task: _loss(each, labels[each.task], predictions[each.task])
        for each in objectives
    }


def score(
    objective: Objective, labels: np.ndarray, predictions: np.ndarray
) -> float:
    """Computes accuracy of classes, AUC of a binary task, else the RMSE.

    Args:
        objective: `Objective`.
        labels: array `(rows,)`.
        predictions: array `(rows, units)`.

    Returns:
        The score.
    """
    labels, predictions = _labelled(objective, labels, predictions)
    if objective.kind == "classes":
        return float(np.mean(predictions.argmax(axis=-1) == labels))
    if objective.kind == "binary":
        return area_under_curve(labels, predictions[:, 0])
    return math.sqrt(np.mean((predictions[:, 0] - labels) ** 2))


def area_under_curve(labels: np.ndarray, predictions: np.ndarray) -> float:
    """Computes the chance that a positive row ranks above a negative one.

    Args:
        labels: array `(rows,)` of 0 and 1, both of them.
        predictions: array `(rows,)`.

    Returns:
        The area under the ROC curve, ties counted by half.
    """
    _, rank_of, counts = np.unique(
        predictions, return_inverse=True, return_counts=True
    )
    last = np.cumsum(counts)
    ranks = (last - (counts - 1) / 2)[rank_of]
    positives = labels == 1
    num_positive = positives.sum()
    num_pairs = num_positive * (len(labels) - num_positive)
    above = ranks[positives].sum() - num_positive * (num_positive + 1) / 2
    return float(above / num_pairs)


def _loss(
    objective: Objective, labels: np.ndarray, predictions: np.ndarray
) -> float:
    labels, predictions = _labelled(objective, labels, predictions)
    if objective.kind == "regression":
        return float(np.mean((predictions[:, 0] - labels) ** 2))
    if objective.kind == "binary":
        chance = np.where(labels == 1, predictions[:, 0], 1 - predictions[:, 0])
    else:
        chance = np.take_along_axis(
            predictions, labels[:, np.newaxis].astype(np.int64), axis=1
        )
    return float(-np.mean(np.log(np.clip(chance, _SMALLEST, 1.0))))


def _labelled(
    objective: Objective, labels: np.ndarray, predictions: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    predictions = predictions.astype(np.float64)
    if objective.missing is None:
        return labels, predictions
    missing = (
        np.isnan(labels)
        if math.isnan(objective.missing)
        else labels == objective.missing
    )
    return labels[~missing], predictions[~missing]

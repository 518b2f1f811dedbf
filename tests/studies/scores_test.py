import math

import numpy as np
import pytest

from studies.scores import area_under_curve
from studies.scores import score
from studies.scores import total_loss
from studies.study import Objective


def test_total_loss_by_hand():
    objectives = [
        Objective("click", "binary", 0.5),
        Objective("stars", "regression", 2.0, missing=0.0),
        Objective("kind", "classes", missing=-1),
    ]
    labels = {
        "click": np.array([1.0, 0.0]),
        "stars": np.array([3.0, 0.0]),
        "kind": np.array([1, -1]),
    }
    predictions = {
        "click": np.array([[0.5], [0.75]]),
        "stars": np.array([[5.0], [7.0]]),
        "kind": np.array([[0.5, 0.25], [0.5, 0.5]]),
    }
    # Mean of log 2 and log 4, halved; 2 times 2^2; log 4.
    expected = 0.75 * math.log(2) + 8.0 + math.log(4)
    found = total_loss(objectives, labels, predictions)
    assert found == pytest.approx(expected)


def test_total_loss_is_finite_for_a_certain_mistake():
    objective = [Objective("a", "binary")]
    loss = total_loss(objective, {"a": np.ones(1)}, {"a": np.zeros((1, 1))})
    assert loss == pytest.approx(-math.log(1e-7))


def test_area_under_curve_counts_pairs_and_half_of_ties():
    labels = np.array([1, 0, 1, 0, 1])
    predictions = np.array([0.9, 0.8, 0.3, 0.3, 0.1])
    pairs = [
        0.5 * (p == q) + (p > q)
        for p in predictions[labels == 1]
        for q in predictions[labels == 0]
    ]
    assert area_under_curve(labels, predictions) == np.mean(pairs)


def test_score_by_kind():
    classes = np.array([[0.1, 0.9], [0.8, 0.2], [0.6, 0.4]])
    accuracy = score(Objective("a", "classes"), np.array([1, 0, 1]), classes)
    assert accuracy == pytest.approx(2 / 3)
    errors = np.array([[1.0], [3.0]])
    assert score(Objective("a", "regression"), np.zeros(2), errors) == (
        pytest.approx(math.sqrt(5))
    )

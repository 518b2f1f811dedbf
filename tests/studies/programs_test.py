import importlib

import numpy as np
import pytest

from keras_comet import datasets
from studies import planted


@pytest.mark.parametrize(
    "name",
    [
        "census",
        "images",
        "movielens",
        "multi_fashion_mnist",
        "multi_mnist",
        "planted",
        "strokes",
    ],
)
def test_study_has_the_baselines(name):
    study = importlib.import_module(f"studies.{name}").STUDY
    assert study.name == name
    assert {"one", "softmax", "top_k", "comet_capped"} <= set(study.arms)
    assert ("one_per_task" in study.arms) == (len(study.objectives) > 1)
    if "cgc_capped_base" in study.arms:
        arm, plain = study.arms["cgc_capped_base"], study.arms["top_k"]
        # Two tasks: as many experts as the others have.
        assert arm.num_experts + arm.task_experts == plain.num_experts
        assert arm.make_gate().num_experts == arm.num_experts
    paper = {"one", "softmax", "top_k", "dselect_k", "comet"}
    assert paper <= set(study.tuned_arms)
    assert set(study.tuned_arms) >= {
        f"{gate}_{search}"
        for gate in ("top_k", "dselect_k", "comet")
        for search in ("search", "sinkhorn")
    }
    assert study.arms["one"].num_experts == 1
    assert study.arms["one"].width == study.k


def test_planted_agreement_is_one_for_any_numbering_of_the_experts():
    data = planted.load(0, smoke=True)
    assignment = data.ground_truth["assignment"]
    names = np.random.default_rng(0).permutation(planted.NUM_EXPERTS)
    group_id = data.test.features["group_id"]
    weights = {}
    for task, experts in enumerate(assignment):
        weights[f"task_{task}"] = np.zeros((len(group_id), 8))
        np.put_along_axis(
            weights[f"task_{task}"], names[experts[group_id]], 0.5, axis=1
        )
    assert planted.agreement(data, weights) == 1.0
    # One of the two experts of every group moved to the wrong place.
    first = assignment[0][:, 0]
    weights["task_0"][:] = 0.0
    wrong = names[first[group_id]]
    np.put_along_axis(weights["task_0"], wrong[:, np.newaxis], 1.0, axis=1)
    assert planted.agreement(data, weights) == pytest.approx(0.75)


def test_planted_agreement_is_unknown_for_one_expert():
    data = datasets.synthetic_multitask(100)
    one = {"task_0": np.ones((10, 1))}
    assert np.isnan(planted.agreement(data, one))

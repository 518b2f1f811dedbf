"""Experts that are known: does a gate find which group needs which?"""

from __future__ import annotations

from collections.abc import Mapping

import keras
import numpy as np
import tensorflow as tf

import keras_comet
from keras_comet import datasets
from keras_comet.ops import linear_assignment
from studies.arms import gate_arms
from studies.command import run_command
from studies.study import Arm
from studies.study import Models
from studies.study import Objective
from studies.study import Study
from studies.tuned_arms import tuned_arms

NUM_EXPERTS = 8
K = 2
_OBJECTIVES = (
    Objective("task_0", "binary"),
    Objective("task_1", "regression", missing=float("nan")),
)


def load(seed: int, smoke: bool) -> datasets.MultitaskDataset:
    """Makes other experts and another assignment for every seed."""
    return datasets.synthetic_multitask(
        1000 if smoke else 30_000, num_experts=NUM_EXPERTS, k=K, seed=seed
    )


def make_models(data: datasets.MultitaskDataset, arm: Arm) -> Models:
    """Makes experts that read `x`, and gates that read the group.

    Experts are as the true ones, four times as wide inside; a task scales
    the mixture of their outputs.
    """
    tasks = [each.task for each in _OBJECTIVES]
    groups = [[task] for task in tasks] if arm.apart else [tasks]
    return {tuple(group): _make_model(data, arm, group) for group in groups}


def _make_model(
    data: datasets.MultitaskDataset, arm: Arm, tasks: list[str]
) -> keras.Model:
    num_groups = len(data.vocabularies["group_id"])
    inputs = {
        "group_id": keras.Input((), dtype="int64", name="group_id"),
        "x": keras.Input((data.train.features["x"].shape[1],), name="x"),
    }
    gates = {task: arm.make_gate() for task in tasks}
    one_hot = keras.layers.CategoryEncoding(num_groups, "one_hot")(
        inputs["group_id"]
    )
    mixtures = keras_comet.MultiGateMixtureOfExperts(
        keras_comet.StackedDenseExperts(
            arm.num_experts, [32 * arm.width, 1], activation=["tanh", None]
        ),
        gates,
    )
    # One expert knows the group only if it reads it.
    features = (
        keras.layers.Concatenate()([inputs["x"], one_hot])
        if arm.num_experts == 1
        else inputs["x"]
    )
    routing_inputs = {
        task: inputs["group_id"] if gate.reads_ids else one_hot
        for task, gate in gates.items()
    }
    activations = {
        each.task: "sigmoid" if each.kind == "binary" else None
        for each in _OBJECTIVES
    }
    return keras.Model(
        inputs,
        {
            task: keras.layers.Dense(1, activations[task], name=task)(mixture)
            for task, mixture in mixtures((features, routing_inputs)).items()
        },
    )


def agreement(
    data: datasets.MultitaskDataset, routing_weights: Mapping[str, np.ndarray]
) -> float:
    """Computes the share of planted experts that were found.

    The experts found for a group and a task are the k of largest mean
    weight. Which expert stands for which true one is chosen for the most
    agreement.

    Args:
        data: what `load` returned.
        routing_weights: dict from task to the weights of the test rows.

    Returns:
        A share; NaN if there is one expert.
    """
    num_experts = next(iter(routing_weights.values())).shape[-1]
    if num_experts == 1:
        return float("nan")
    planted = data.ground_truth["assignment"]  # (tasks, groups, k)
    group_id = data.test.features["group_id"]
    matches = np.zeros((num_experts, num_experts), np.float32)
    for task, experts in enumerate(planted):
        weights = routing_weights[f"task_{task}"]
        for group, true_experts in enumerate(experts):
            rows = weights[group_id == group]
            if not len(rows):
                continue
            mean = rows.mean(axis=0)
            found = np.argsort(-mean)[:K]
            found = found[mean[found] > 0.0]
            matches[np.ix_(found, true_experts)] += 1
    stands_for = linear_assignment(tf.constant(-matches)).numpy()
    matched = matches[np.arange(num_experts), stands_for].sum()
    return float(matched / planted.size)


STUDY = Study(
    name="planted",
    load=load,
    make_models=make_models,
    objectives=_OBJECTIVES,
    arms=gate_arms(NUM_EXPERTS, k=K, several_tasks=True, has_ids=True),
    tuned_arms=tuned_arms(NUM_EXPERTS, k=K, several_tasks=True, has_ids=True),
    first_steps=(0, 1),
    k=K,
    agreement=agreement,
)


def main() -> None:
    """Runs the study."""
    run_command(STUDY)

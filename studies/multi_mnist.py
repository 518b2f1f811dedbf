"""Two overlaid digits, a task for each: the MultiMNIST of the paper."""

from __future__ import annotations

import functools

import keras

import keras_comet
from keras_comet import datasets
from studies.arms import gate_arms
from studies.classifiers import make_convolutional_expert
from studies.classifiers import take_images
from studies.command import run_command
from studies.study import Arm
from studies.study import Models
from studies.study import Objective
from studies.study import Study
from studies.tuned_arms import tuned_arms

_OBJECTIVES = (
    Objective("top_left", "classes"),
    Objective("bottom_right", "classes"),
)

# Of one expert that costs as much as k: two convolutions and dense layers of
# 1.01 million multiplications, 2.09 million (k = 2), 4.06 million (k = 4).
_CHANNELS = {1: (10, 20, 50), 2: (15, 30, 75), 4: (22, 42, 105)}


def load(fashion: bool, seed: int, smoke: bool) -> datasets.MultitaskDataset:
    """Draws other pairs for every seed."""
    data = datasets.multi_mnist(fashion=fashion, seed=seed)
    end = 500 if smoke else None
    return datasets.MultitaskDataset(
        name=data.name,
        train=take_images(data.train, end),
        validation=take_images(data.validation, end),
        test=take_images(data.test, end),
        vocabularies={},
    )


def make_models(data: datasets.MultitaskDataset, arm: Arm) -> Models:
    """Makes convolutional experts, and towers of 50, 50 and 10 units."""
    tasks = [each.task for each in _OBJECTIVES]
    groups = [[task] for task in tasks] if arm.apart else [tasks]
    shape = data.train.features["image"].shape[1:]
    return {tuple(group): _make_model(shape, arm, group) for group in groups}


def _make_model(
    shape: tuple[int, ...], arm: Arm, tasks: list[str]
) -> keras.Model:
    image = keras.Input(shape, name="image")
    pixels = keras.layers.Flatten()(image)
    mixtures = keras_comet.MultiGateMixtureOfExperts(
        [
            make_convolutional_expert(*_CHANNELS[arm.width], num_dense=2)
            for _ in range(arm.num_experts)
        ],
        {task: arm.make_gate() for task in tasks},
    )((image, pixels))
    outputs = {}
    for task in tasks:
        hidden = mixtures[task]
        for _ in range(2):
            hidden = keras.layers.Dense(50, "relu")(hidden)
        outputs[task] = keras.layers.Dense(10, "softmax", name=task)(hidden)
    return keras.Model({"image": image}, outputs)


def make_study(name: str, fashion: bool, num_experts: int, k: int) -> Study:
    """Makes the study of digits or of clothes.

    Args:
        name: str.
        fashion: bool. Whether the images are those of Fashion-MNIST.
        num_experts: int.
        k: int.

    Returns:
        A `Study`.
    """
    return Study(
        name=name,
        load=functools.partial(load, fashion),
        make_models=make_models,
        objectives=_OBJECTIVES,
        arms=gate_arms(num_experts, k=k, several_tasks=True),
        tuned_arms=tuned_arms(num_experts, k=k, several_tasks=True),
        first_steps=(-1, 0),
        k=k,
        batch_size=512,
    )


STUDY = make_study("multi_mnist", fashion=False, num_experts=16, k=4)


def main() -> None:
    """Runs the study."""
    run_command(STUDY)

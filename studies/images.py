"""MNIST and Fashion-MNIST under common labels, small convolutional experts."""

from __future__ import annotations

from keras_comet import datasets
from studies.arms import gate_arms
from studies.classifiers import make_classifier
from studies.classifiers import make_convolutional_expert
from studies.classifiers import take_images
from studies.command import run_command
from studies.study import Arm
from studies.study import Models
from studies.study import Objective
from studies.study import Study
from studies.tuned_arms import tuned_arms

NUM_EXPERTS = 8
_TRAIN_ROWS = 30_000
_VALIDATION_ROWS = 6_000

# Experts 1.5 times as wide cost twice as much: 972,000 multiplications
# against 480,000, most of them between channels and channels.
_CHANNELS = {1: (10, 20, 50), 2: (15, 30, 75)}


def load(seed: int, smoke: bool) -> datasets.MultitaskDataset:
    """Draws other training and validation images for every seed."""
    data = datasets.image_domains(seed=seed)
    return datasets.MultitaskDataset(
        name=data.name,
        train=take_images(data.train, 500 if smoke else _TRAIN_ROWS),
        validation=take_images(
            data.validation, 500 if smoke else _VALIDATION_ROWS
        ),
        test=take_images(data.test, 500 if smoke else None),
        vocabularies={},
    )


def make_models(data: datasets.MultitaskDataset, arm: Arm) -> Models:
    """Makes a mixture of convolutional networks."""
    return make_classifier(
        data.train.features["image"],
        "label",
        10,
        arm,
        lambda num_experts, width: [
            make_convolutional_expert(*_CHANNELS[width])
            for _ in range(num_experts)
        ],
        flatten=False,
    )


STUDY = Study(
    name="images",
    load=load,
    make_models=make_models,
    objectives=[Objective("label", "classes")],
    arms=gate_arms(NUM_EXPERTS),
    tuned_arms=tuned_arms(NUM_EXPERTS),
    first_steps=(-1, 0),
)


def main() -> None:
    """Runs the study."""
    run_command(STUDY)

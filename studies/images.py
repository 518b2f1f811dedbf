"""MNIST and Fashion-MNIST under common labels, small convolutional experts."""

from __future__ import annotations

import keras
import numpy as np

from keras_comet import datasets
from studies.arms import gate_arms
from studies.classifiers import make_classifier
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
        train=_take(data.train, 500 if smoke else _TRAIN_ROWS),
        validation=_take(data.validation, 500 if smoke else _VALIDATION_ROWS),
        test=_take(data.test, 500 if smoke else None),
        vocabularies={},
    )


def _take(split: datasets.Split, num_rows: int | None) -> datasets.Split:
    # Rows come in random order.
    images = split.features["image"][:num_rows]
    return datasets.Split(
        {"image": images.astype(np.float32) / 255.0},
        {"label": split.labels["label"][:num_rows]},
    )


def make_models(data: datasets.MultitaskDataset, arm: Arm) -> Models:
    """Makes a mixture of convolutional networks."""
    return make_classifier(
        data.train.features["image"],
        "label",
        10,
        arm,
        lambda num_experts, width: [
            _make_expert(*_CHANNELS[width]) for _ in range(num_experts)
        ],
        flatten=False,
    )


def _make_expert(first: int, second: int, units: int) -> keras.layers.Layer:
    return keras.Sequential(
        [
            keras.layers.Conv2D(first, 5, activation="relu"),
            keras.layers.MaxPooling2D(),
            keras.layers.Conv2D(second, 5, activation="relu"),
            keras.layers.MaxPooling2D(),
            keras.layers.Flatten(),
            keras.layers.Dense(units, activation="relu"),
        ]
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

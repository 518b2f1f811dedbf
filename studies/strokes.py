"""Strokes of three domains under common labels: small experts, fast runs."""

from __future__ import annotations

import keras_comet
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

# So small that domains pay: with perfect routing by domain, experts of two
# layers of 16 have a validation loss of .45, one for all domains .51 (rate
# 2e-3, one seed). Of layers of 128 and 64, one for all is best (.26 to .29).
_UNITS = 8


def load(seed: int, smoke: bool) -> datasets.MultitaskDataset:
    """Draws other rows of the same shapes for every seed."""
    data = datasets.synthetic_strokes(1000 if smoke else 30_000, seed=seed)
    for split in (data.train, data.validation, data.test):
        del split.features["domain"]
    return data


def make_models(data: datasets.MultitaskDataset, arm: Arm) -> Models:
    """Makes a mixture of perceptrons."""
    return make_classifier(
        data.train.features["image"],
        "shape",
        10,
        arm,
        lambda num_experts, width: keras_comet.StackedDenseExperts(
            num_experts,
            [_UNITS * width, _UNITS * width],
            activation="relu",
            deviation_scale=arm.deviation_scale,
        ),
        flatten=True,
    )


STUDY = Study(
    name="strokes",
    load=load,
    make_models=make_models,
    objectives=[Objective("shape", "classes")],
    arms=gate_arms(NUM_EXPERTS, deviation_scale=1.0),
    tuned_arms=tuned_arms(NUM_EXPERTS),
    first_steps=(0, 1, 2),
)


def main() -> None:
    """Runs the study."""
    run_command(STUDY)

"""Models that tell classes of images apart."""

from __future__ import annotations

from collections.abc import Callable

import keras
import numpy as np

import keras_comet
from studies.study import Arm
from studies.study import Models

Experts = list[keras.layers.Layer] | keras_comet.StackedDenseExperts


def make_classifier(
    image: np.ndarray,
    task: str,
    num_classes: int,
    arm: Arm,
    make_experts: Callable[[int, int], Experts],
    flatten: bool,
) -> Models:
    """Makes a mixture that reads images, with one linear layer on top.

    The gate reads the pixels.

    Args:
        image: array of images, for their shape.
        task: str. Name of the label.
        num_classes: int.
        arm: `Arm`.
        make_experts: function of a number of experts and a factor of their
            width.
        flatten: bool. Whether experts read pixels in a row.

    Returns:
        `Models`, one of them.
    """
    inputs = {"image": keras.Input(image.shape[1:], name="image")}
    pixels = keras.layers.Flatten()(inputs["image"])
    mixture = keras_comet.MixtureOfExperts(
        make_experts(arm.num_experts, arm.width), arm.make_gate()
    )
    hidden = mixture(pixels if flatten else (inputs["image"], pixels))
    logits = keras.layers.Dense(num_classes, "softmax", name=task)(hidden)
    return {(task,): keras.Model(inputs, {task: logits})}

"""Models that tell classes of images apart."""

from __future__ import annotations

from collections.abc import Callable

import keras
import numpy as np

import keras_comet
from keras_comet import datasets
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


def make_convolutional_expert(
    first: int, second: int, units: int, num_dense: int = 1
) -> keras.layers.Layer:
    """Makes two convolutions with pooling, and dense layers after them.

    Args:
        first: int. Channels of the first convolution.
        second: int. Channels of the second one.
        units: int. Width of a dense layer.
        num_dense: int. Number of dense layers. Defaults to `1`.

    Returns:
        A Keras layer.
    """
    return keras.Sequential(
        [
            keras.layers.Conv2D(first, 5, activation="relu"),
            keras.layers.MaxPooling2D(),
            keras.layers.Conv2D(second, 5, activation="relu"),
            keras.layers.MaxPooling2D(),
            keras.layers.Flatten(),
            *(
                keras.layers.Dense(units, activation="relu")
                for _ in range(num_dense)
            ),
        ]
    )


def take_images(split: datasets.Split, num_rows: int | None) -> datasets.Split:
    """Takes the first images, which come in random order, from 0 to 1.

    Args:
        split: `Split` with the feature `image`, of integers to 255, or their
            sums; other features are left out.
        num_rows: int, or `None` for all.

    Returns:
        A `Split` of float32 images.
    """
    images = split.features["image"][:num_rows]
    return datasets.Split(
        {"image": images.astype(np.float32) / 255.0},
        {task: labels[:num_rows] for task, labels in split.labels.items()},
    )

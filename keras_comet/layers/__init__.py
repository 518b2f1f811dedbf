"""Layers that compute: mixtures of experts and stacked experts."""

from keras_comet.layers.customized_gate_control import CustomizedGateControl
from keras_comet.layers.mixture_of_experts import MixtureOfExperts
from keras_comet.layers.multi_gate_mixture_of_experts import (
    MultiGateMixtureOfExperts,
)
from keras_comet.layers.shared_base_experts import SharedBaseExperts
from keras_comet.layers.stacked_dense_experts import StackedDenseExperts

__all__ = [
    "CustomizedGateControl",
    "MixtureOfExperts",
    "MultiGateMixtureOfExperts",
    "SharedBaseExperts",
    "StackedDenseExperts",
]

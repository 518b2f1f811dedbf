"""Whole models: features, experts, a gate per task, towers."""

from keras_comet.models.categorical_feature import CategoricalFeature
from keras_comet.models.multi_gate_recommender import MultiGateRecommender
from keras_comet.models.numeric_feature import NumericFeature
from keras_comet.models.task import Task
from keras_comet.models.upcycle import upcycle

__all__ = [
    "CategoricalFeature",
    "MultiGateRecommender",
    "NumericFeature",
    "Task",
    "upcycle",
]

"""Whole models: features, experts, a gate per task, towers."""

from keras_comet.models.bucketized_feature import BucketizedFeature
from keras_comet.models.categorical_feature import CategoricalFeature
from keras_comet.models.embedding_table import EmbeddingTable
from keras_comet.models.hashed_feature import HashedFeature
from keras_comet.models.layer_feature import LayerFeature
from keras_comet.models.multi_categorical_feature import MultiCategoricalFeature
from keras_comet.models.multi_gate_recommender import MultiGateRecommender
from keras_comet.models.numeric_feature import NumericFeature
from keras_comet.models.sequence_feature import SequenceFeature
from keras_comet.models.task import Task
from keras_comet.models.upcycle import upcycle

__all__ = [
    "BucketizedFeature",
    "CategoricalFeature",
    "EmbeddingTable",
    "HashedFeature",
    "LayerFeature",
    "MultiCategoricalFeature",
    "MultiGateRecommender",
    "NumericFeature",
    "SequenceFeature",
    "Task",
    "upcycle",
]

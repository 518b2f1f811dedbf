"""Metrics of routing: pure functions of routing and permutation weights."""

from keras_comet.metrics.expert_usage import expert_usage
from keras_comet.metrics.permutation_distance import permutation_distance
from keras_comet.metrics.routing_statistics import routing_statistics
from keras_comet.metrics.union_statistics import union_statistics

__all__ = [
    "expert_usage",
    "permutation_distance",
    "routing_statistics",
    "union_statistics",
]

"""Metrics of routing: pure functions of the routing weights."""

from keras_comet.metrics.expert_usage import expert_usage
from keras_comet.metrics.routing_statistics import routing_statistics

__all__ = ["expert_usage", "routing_statistics"]

"""Numbers that say what gates do; pure functions of routing weights."""

from keras_comet.metrics.routing_statistics import expert_usage
from keras_comet.metrics.routing_statistics import routing_statistics

__all__ = ["expert_usage", "routing_statistics"]

"""Training with local search: the callback and the loop."""

from keras_comet.training.local_search import LocalSearch
from keras_comet.training.trainer import Trainer

__all__ = ["LocalSearch", "Trainer"]

"""Training with local search: the callback and the loop."""

from keras_comet.training.local_search import LocalSearch

__all__ = ["LocalSearch"]

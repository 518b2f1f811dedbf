"""Optimizers that search permutations of experts."""

from keras_comet.optimizers.local_search_optimizer import LocalSearchOptimizer
from keras_comet.optimizers.search_report import SearchReport

__all__ = ["LocalSearchOptimizer", "SearchReport"]

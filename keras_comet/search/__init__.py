"""The search over permutations of experts, and its optimizer wrapper."""

from keras_comet.search.local_search_optimizer import LocalSearchOptimizer
from keras_comet.search.search_report import SearchReport

__all__ = ["LocalSearchOptimizer", "SearchReport"]

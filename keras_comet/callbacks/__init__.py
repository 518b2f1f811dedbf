"""Keras callbacks: steering gates, watching them, searching permutations."""

from keras_comet.callbacks.cardinality_target import CardinalityTarget
from keras_comet.callbacks.gate_sparsity_logger import GateSparsityLogger
from keras_comet.callbacks.local_search import LocalSearch

__all__ = ["CardinalityTarget", "GateSparsityLogger", "LocalSearch"]

"""Keras callbacks: one steers the gates' cardinality, the others watch."""

from keras_comet.callbacks.cardinality_target import CardinalityTarget
from keras_comet.callbacks.gate_sparsity_logger import GateSparsityLogger

__all__ = ["CardinalityTarget", "GateSparsityLogger"]

"""Keras callbacks that watch training; they never change it."""

from keras_comet.callbacks.gate_sparsity_logger import GateSparsityLogger

__all__ = ["GateSparsityLogger"]

"""Callbacks that watch gates."""

from keras_comet.callbacks.gate_sparsity_logger import GateSparsityLogger

__all__ = ["GateSparsityLogger"]

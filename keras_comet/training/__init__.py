"""The training loop with local search and checkpoints."""

from keras_comet.training.trainer import Trainer

__all__ = ["Trainer"]

"""Penalties on how gates route: scalar means over the batch, in float32."""

from keras_comet.regularizers.entropy import entropy
from keras_comet.regularizers.load_balance import load_balance
from keras_comet.regularizers.unreachable_codes import unreachable_codes
from keras_comet.regularizers.z_loss import z_loss

__all__ = ["entropy", "load_balance", "unreachable_codes", "z_loss"]

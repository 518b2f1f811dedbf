"""Checks that users can run on gates and layers of their own."""

from keras_comet.testing.conformance import check_gate
from keras_comet.testing.conformance import check_layer
from keras_comet.testing.gate_checks import GATE_CHECKS
from keras_comet.testing.gate_checks import check_cardinality
from keras_comet.testing.gate_checks import check_losses
from keras_comet.testing.gate_checks import check_permutation
from keras_comet.testing.gate_checks import check_row_independence
from keras_comet.testing.gate_checks import check_simplex
from keras_comet.testing.layer_checks import LAYER_CHECKS
from keras_comet.testing.layer_checks import check_build
from keras_comet.testing.layer_checks import check_compiled_training
from keras_comet.testing.layer_checks import check_config
from keras_comet.testing.layer_checks import check_gradients
from keras_comet.testing.layer_checks import check_mixed_precision
from keras_comet.testing.layer_checks import check_policy
from keras_comet.testing.layer_checks import check_saving
from keras_comet.testing.layer_checks import check_shapes
from keras_comet.testing.layer_checks import check_trainable

__all__ = [
    "GATE_CHECKS",
    "LAYER_CHECKS",
    "check_build",
    "check_cardinality",
    "check_compiled_training",
    "check_config",
    "check_gate",
    "check_gradients",
    "check_layer",
    "check_losses",
    "check_mixed_precision",
    "check_permutation",
    "check_policy",
    "check_row_independence",
    "check_saving",
    "check_shapes",
    "check_simplex",
    "check_trainable",
]

"""Pure tensor functions: no state, no Keras."""

from keras_comet.ops.assignment import linear_assignment
from keras_comet.ops.dispatch import RoutedPairs
from keras_comet.ops.dispatch import combine
from keras_comet.ops.dispatch import dispatch
from keras_comet.ops.dispatch import find_chosen
from keras_comet.ops.dispatch import find_routed_pairs
from keras_comet.ops.dispatch import gather_routed
from keras_comet.ops.if_nonempty import if_nonempty
from keras_comet.ops.keep_largest import keep_largest
from keras_comet.ops.keep_union import keep_union
from keras_comet.ops.leaf_weights import leaf_weights
from keras_comet.ops.normalized_entropy import normalized_entropy
from keras_comet.ops.sinkhorn import sinkhorn
from keras_comet.ops.smooth_step import smooth_step
from keras_comet.ops.stable_hash import stable_hash
from keras_comet.ops.static_cond import static_cond
from keras_comet.ops.tree_routing import follow_splits
from keras_comet.ops.tree_routing import leaf_probabilities
from keras_comet.ops.weighted_sum import weighted_sum

__all__ = [
    "RoutedPairs",
    "combine",
    "dispatch",
    "find_chosen",
    "find_routed_pairs",
    "follow_splits",
    "gather_routed",
    "if_nonempty",
    "keep_largest",
    "keep_union",
    "leaf_probabilities",
    "leaf_weights",
    "linear_assignment",
    "normalized_entropy",
    "sinkhorn",
    "smooth_step",
    "stable_hash",
    "static_cond",
    "weighted_sum",
]

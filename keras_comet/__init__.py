"""Sparse gates and mixtures of experts for Keras."""

# First, as what it says when no Keras can be had is clear.
from keras_comet import _keras  # noqa: F401
from keras_comet import datasets
from keras_comet import tuning
from keras_comet._version import __version__
from keras_comet.analysis import expert_similarity
from keras_comet.analysis import routing_ablation
from keras_comet.callbacks import CardinalityTarget
from keras_comet.callbacks import GateSparsityLogger
from keras_comet.callbacks import LocalSearch
from keras_comet.export import export_saved_model
from keras_comet.gates import COMETGate
from keras_comet.gates import DSelectKGate
from keras_comet.gates import ExpertPermutation
from keras_comet.gates import Gate
from keras_comet.gates import HashGate
from keras_comet.gates import SoftmaxGate
from keras_comet.gates import TopKGate
from keras_comet.gates import routing_weights
from keras_comet.layers import CustomizedGateControl
from keras_comet.layers import MixtureOfExperts
from keras_comet.layers import MultiGateMixtureOfExperts
from keras_comet.layers import SharedBaseExperts
from keras_comet.layers import StackedDenseExperts
from keras_comet.metrics import routing_statistics
from keras_comet.models import BucketizedFeature
from keras_comet.models import CategoricalFeature
from keras_comet.models import EmbeddingTable
from keras_comet.models import HashedFeature
from keras_comet.models import LayerFeature
from keras_comet.models import MultiCategoricalFeature
from keras_comet.models import MultiGateRecommender
from keras_comet.models import NumericFeature
from keras_comet.models import SequenceFeature
from keras_comet.models import Task
from keras_comet.models import upcycle
from keras_comet.search import LocalSearchOptimizer
from keras_comet.search import SearchReport
from keras_comet.training import Trainer

__all__ = [
    "BucketizedFeature",
    "COMETGate",
    "CardinalityTarget",
    "CategoricalFeature",
    "CustomizedGateControl",
    "DSelectKGate",
    "EmbeddingTable",
    "ExpertPermutation",
    "Gate",
    "GateSparsityLogger",
    "HashGate",
    "HashedFeature",
    "LayerFeature",
    "LocalSearch",
    "LocalSearchOptimizer",
    "MixtureOfExperts",
    "MultiCategoricalFeature",
    "MultiGateMixtureOfExperts",
    "MultiGateRecommender",
    "NumericFeature",
    "SearchReport",
    "SequenceFeature",
    "SharedBaseExperts",
    "SoftmaxGate",
    "StackedDenseExperts",
    "Task",
    "Trainer",
    "TopKGate",
    "__version__",
    "datasets",
    "expert_similarity",
    "export_saved_model",
    "routing_ablation",
    "routing_statistics",
    "routing_weights",
    "tuning",
    "upcycle",
]

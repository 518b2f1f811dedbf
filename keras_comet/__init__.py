"""Sparse gates and mixtures of experts for Keras."""

from keras_comet.gates import COMETGate
from keras_comet.gates import DSelectKGate
from keras_comet.gates import ExpertPermutation
from keras_comet.gates import Gate
from keras_comet.gates import HashGate
from keras_comet.gates import SoftmaxGate
from keras_comet.gates import TopKGate
from keras_comet.layers import MixtureOfExperts
from keras_comet.layers import MultiGateMixtureOfExperts
from keras_comet.layers import StackedDenseExperts
from keras_comet.models import CategoricalFeature
from keras_comet.models import MultiGateRecommender
from keras_comet.models import NumericFeature
from keras_comet.models import Task

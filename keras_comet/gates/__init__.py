"""Gates: layers that return routing weights."""

from keras_comet.gates.base import Gate
from keras_comet.gates.capture import routing_weights
from keras_comet.gates.comet_gate import COMETGate
from keras_comet.gates.dselect_k_gate import DSelectKGate
from keras_comet.gates.expert_permutation import ExpertPermutation
from keras_comet.gates.hash_gate import HashGate
from keras_comet.gates.linear_gate import LinearGate
from keras_comet.gates.softmax_gate import SoftmaxGate
from keras_comet.gates.top_k_gate import TopKGate

__all__ = [
    "COMETGate",
    "DSelectKGate",
    "ExpertPermutation",
    "Gate",
    "HashGate",
    "LinearGate",
    "SoftmaxGate",
    "TopKGate",
    "routing_weights",
]

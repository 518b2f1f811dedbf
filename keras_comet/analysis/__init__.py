"""Analyses of trained models: does the routing matter, and do the experts."""

from keras_comet.analysis.ablation_report import AblationReport
from keras_comet.analysis.ablation_report import GateAblation
from keras_comet.analysis.estimate import Estimate
from keras_comet.analysis.expert_similarity import ExpertSimilarity
from keras_comet.analysis.expert_similarity import expert_similarity
from keras_comet.analysis.routing_ablation import routing_ablation

__all__ = [
    "AblationReport",
    "Estimate",
    "ExpertSimilarity",
    "GateAblation",
    "expert_similarity",
    "routing_ablation",
]

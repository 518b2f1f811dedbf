"""Base class of mixtures whose gates choose from the same experts."""

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from keras_comet.containers import register_user
from keras_comet.containers import serialize_layers
from keras_comet.layers.expert_group import Experts
from keras_comet.layers.expert_group import as_one
from keras_comet.layers.routed_experts import RoutedExperts


class ExpertMixture(RoutedExperts):
    """Owns the experts that all of its gates choose from, and shared ones.

    Args:
        experts: list of Keras layers or models, or one layer that answers for
            all experts: `StackedDenseExperts` or `SharedBaseExperts`.
        dispatch: `"dense"`, `"sparse"` or `"auto"`.
        shared_experts: the same, whose outputs every row adds.
    """

    def __init__(
        self,
        experts: Experts,
        dispatch: str = "auto",
        shared_experts: Experts = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(dispatch, **kwargs)
        self._experts = as_one(experts, self.dtype_policy)
        self._shared_experts: Any = None
        if shared_experts != () and shared_experts != []:
            self._shared_experts = as_one(shared_experts, self.dtype_policy)
        for each in (self.experts, self.shared_experts):
            register_user(tf.nest.flatten(each))

    @property
    def experts(self) -> Any:
        """The experts as given: a list of layers, or one for all."""
        return self._experts.as_given()

    @property
    def shared_experts(self) -> Any:
        """The shared experts as given, or an empty list."""
        if self._shared_experts is None:
            return []
        return self._shared_experts.as_given()

    @property
    def num_experts(self) -> int:
        """Number of experts."""
        return self._experts.num_experts

    def _groups(self) -> dict[str, Any]:
        groups = {"experts": self._experts}
        if self._shared_experts is not None:
            groups["shared_experts"] = self._shared_experts
        return groups

    def _group_label(self, group: str) -> str:
        return self.name

    def _groups_of(self, gate: str) -> list[str]:
        return ["experts"]

    def _main_group(self, gate: str) -> str:
        return "experts"

    def _by_group(self, features: Any) -> dict[str, Any]:
        if isinstance(features, Mapping):
            raise ValueError(
                "The experts of a mixture read one tensor of features. "
                f"Received: a dict with {sorted(features)}. Concatenate "
                "features first."
            )
        return dict.fromkeys(self._groups(), features)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "experts": serialize_layers(self.experts, self),
            "shared_experts": serialize_layers(self.shared_experts, self),
        }

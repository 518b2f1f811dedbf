"""What a study consists of."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any
from typing import Literal

import keras

import keras_comet
from keras_comet import datasets
from studies.trials import Setting

# By the tasks that each model predicts: one for all, or one for each.
Models = dict[tuple[str, ...], keras.Model]


@dataclasses.dataclass(frozen=True)
class Objective:
    """How the predictions of one task are judged.

    Args:
        task: str.
        kind: str. `"classes"` for probabilities of integer classes,
            `"binary"` for one probability, `"regression"` for squared errors.
        weight: float. Of its loss in the sum. Defaults to `1.0`.
        missing: float, the value of a label that is not there. Defaults to
            `None`.
    """

    task: str
    kind: Literal["classes", "binary", "regression"]
    weight: float = 1.0
    missing: float | None = None


@dataclasses.dataclass(frozen=True)
class Arm:
    """One of the things compared: experts and their gate.

    Args:
        num_experts: int.
        make_gate: function that makes the gate of a task.
        width: int. Factor of the experts' width. Defaults to `1`.
        deviation_scale: float. Of experts that share a base. Defaults to
            `None`: they share nothing.
        apart: bool. Whether every task has a model of its own. Defaults to
            `False`.
        task_experts: int. Number of experts that belong to one task, for
            each of them, among those that its gate sees. Defaults to `0`.
        make_callbacks: function that makes the callbacks of a training.
            Defaults to one that makes none.
        counts_from: int. First epoch after which weights may count as the
            best, as the cap holds. Defaults to `1`.
        search_epochs: int. Epochs during which local search is on. Defaults
            to `0`.
        search_method: str. As in `LocalSearchOptimizer`. Defaults to
            `"exchange"`.
    """

    num_experts: int
    make_gate: Callable[[], keras_comet.Gate]
    width: int = 1
    deviation_scale: float | None = None
    apart: bool = False
    task_experts: int = 0
    make_callbacks: Callable[[], list[keras.callbacks.Callback]] = list
    counts_from: int = 1
    search_epochs: int = 0
    search_method: str = "exchange"


@dataclasses.dataclass(frozen=True)
class TunedArm:
    """An arm of a random search.

    Args:
        tuned: names of the fields of `Setting` that are drawn.
        make: function of a `Setting` that returns an `Arm`.
    """

    tuned: tuple[str, ...]
    make: Callable[[Setting], Arm]


@dataclasses.dataclass(frozen=True)
class Study:
    """Data, models and arms.

    Args:
        name: str.
        load: function of a seed and whether this is a smoke test, that
            returns the data, with no columns but what the models read.
        make_models: function of the data and an arm that returns `Models`,
            not compiled, that give a dict from task to predictions.
        objectives: list of `Objective`; the score is the first one's.
        arms: dict from name to `Arm`.
        tuned_arms: dict from name to `TunedArm`, for the random search.
        first_steps: tuple of int. Steps of the grid of rates to begin with.
            Defaults to `(-1, 0, 1)`.
        k: int. Number of experts a row that "within k" is about. Defaults to
            `2`.
        batch_size: int. Defaults to `256`.
        max_epochs: int. Defaults to `200`.
        agreement: function of the data and the routing weights of the test
            rows by task: how well they agree with what is planted. Defaults
            to `None`.
    """

    name: str
    load: Callable[[int, bool], datasets.MultitaskDataset]
    make_models: Callable[[datasets.MultitaskDataset, Arm], Models]
    objectives: Sequence[Objective]
    arms: Mapping[str, Arm]
    tuned_arms: Mapping[str, TunedArm]
    first_steps: tuple[int, ...] = (-1, 0, 1)
    k: int = 2
    batch_size: int = 256
    max_epochs: int = 200
    agreement: (
        Callable[[datasets.MultitaskDataset, Mapping[str, Any]], float] | None
    ) = None

    @property
    def score(self) -> str:
        """What the score of a run is."""
        names = {"classes": "accuracy", "binary": "AUC", "regression": "RMSE"}
        return names[self.objectives[0].kind]

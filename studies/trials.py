"""Random search as the paper has it: trials, and what they choose."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from collections.abc import Sequence
from typing import NamedTuple

from studies.protocol import nan_last


class Setting(NamedTuple):
    """One setting of an arm; what an arm does not tune is the default."""

    learning_rate: float = 1e-3
    gamma: float = 1.0
    entropy_weight: float = 0.0
    search_epochs: int = 0


class TrialRun(NamedTuple):
    """One training: which arm, and which of its trials, counted from 0."""

    arm: str
    number: int


@dataclasses.dataclass(frozen=True)
class Trial:
    """One finished trial.

    Args:
        study: str.
        arm: str.
        number: int. Of the trial, from 0; the seed of its settings and of
            its training. The data is the same for all trials.
        learning_rate: float.
        gamma: float.
        entropy_weight: float.
        search_epochs: int. 0 without local search.
        validation_loss: float. At the best epoch, which is restored.
        test_loss: float. Read once, after the training.
        validation_losses: str. `task=loss` for each task, without weights,
            a space between them.
        test_losses: str. The same.
        score: float. AUC or accuracy on the test rows.
        cardinality: float. Mean number of experts for a test row and task.
        within_k: float. Share of test rows and tasks with at most k experts.
        dead_experts: int. Experts that no test row of any task uses.
        seconds: float. Processor time of the training.
        epochs: int. Trained in all.
        best_epoch: int. Counted from 1.
    """

    study: str
    arm: str
    number: int
    learning_rate: float
    gamma: float
    entropy_weight: float
    search_epochs: int
    validation_loss: float
    test_loss: float
    validation_losses: str
    test_losses: str
    score: float
    cardinality: float
    within_k: float
    dead_experts: int
    seconds: float
    epochs: int
    best_epoch: int

    @property
    def setting(self) -> Setting:
        """What was drawn."""
        return Setting(
            self.learning_rate,
            self.gamma,
            self.entropy_weight,
            self.search_epochs,
        )


def remaining_trials(
    arms: Sequence[str], trials: Iterable[Trial], num_trials: int
) -> list[TrialRun]:
    """Lists what is left to run, one trial of all arms after the other.

    Args:
        arms: list of str.
        trials: iterable of `Trial`, those of the study so far.
        num_trials: int. Of each arm.

    Returns:
        A list of `TrialRun`.
    """
    done = {(each.arm, each.number) for each in trials}
    return [
        TrialRun(arm, number)
        for number in range(num_trials)
        for arm in arms
        if (arm, number) not in done
    ]


def best_trials(trials: Sequence[Trial], share: float) -> list[Trial]:
    """Chooses the trials of smallest validation loss.

    Args:
        trials: list of `Trial` of one arm.
        share: float. Of them, rounded up.

    Returns:
        A list of `Trial`, the best one first.
    """

    def order(trial: Trial) -> tuple[float, int]:
        return nan_last(trial.validation_loss), trial.number

    count = math.ceil(share * len(trials))
    return sorted(trials, key=order)[:count]

"""Which runs a fair comparison needs: every arm at its own best rate.

Pure functions of what has been run so far: a study can be stopped at any time
and goes on from its records.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import NamedTuple

from studies.records import Record

FACTOR = 2.5
_ANCHOR = 2e-3  # one of the rates of the grid
_CHOOSING_SEED = 0
_MOST_STEPS = 6  # of the grid from the anchor, up or down


class Run(NamedTuple):
    """One training: which arm, at which learning rate, from which seed."""

    arm: str
    learning_rate: float
    seed: int


def grid_rate(step: int) -> float:
    """Computes a rate of the grid that all arms have in common.

    Args:
        step: int. Number of factors of 2.5 above 2e-3.

    Returns:
        The rate, rounded to three digits.
    """
    return float(f"{_ANCHOR * FACTOR**step:.3g}")


def rates_wanted(
    validation_losses: Mapping[float, float], first_steps: Sequence[int]
) -> list[float]:
    """Lists the rates to try before one can be chosen.

    Args:
        validation_losses: dict from the rates tried so far to their losses.
        first_steps: list of int. Steps of the grid to begin with.

    Returns:
        The rates not tried yet; none if the best one lies inside.
    """
    begin = [grid_rate(step) for step in first_steps]
    missing = [rate for rate in begin if rate not in validation_losses]
    if missing:
        return missing
    best = best_rate(validation_losses)
    nearest = round(math.log(best / _ANCHOR, FACTOR))
    return [
        rate
        for step in (nearest - 1, nearest + 1)
        if (rate := grid_rate(step)) not in validation_losses
        and abs(step) <= _MOST_STEPS
    ]


def best_rate(validation_losses: Mapping[float, float]) -> float:
    """Chooses the rate of the smallest validation loss.

    Args:
        validation_losses: dict from rate to loss; NaN is the largest.

    Returns:
        The rate; of equal ones the smallest.
    """

    def order(rate: float) -> tuple[float, float]:
        return nan_last(validation_losses[rate]), rate

    return min(validation_losses, key=order)


def nan_last(loss: float) -> float:
    """Returns what losses are ordered by: NaN is the largest."""
    return math.inf if math.isnan(loss) else loss


def validation_losses(
    records: Iterable[Record], arm: str
) -> dict[float, float]:
    """Collects what an arm's rate is chosen by.

    Args:
        records: iterable of `Record`.
        arm: str.

    Returns:
        A dict from rate to validation loss, of the one seed that chooses.
    """
    return {
        record.learning_rate: record.validation_loss
        for record in records
        if record.arm == arm and record.seed == _CHOOSING_SEED
    }


def remaining_runs(
    arms: Sequence[str],
    records: Sequence[Record],
    num_seeds: int,
    first_steps: Sequence[int],
) -> list[Run]:
    """Lists what is left to run now, the most urgent first.

    First every arm gets its rate, then its seeds, one seed of all arms after
    the other. What depends on runs that are missing is not listed yet.

    Args:
        arms: list of str.
        records: list of `Record` of the study, of any order.
        num_seeds: int. Seeds for each arm at its best rate.
        first_steps: list of int. See `rates_wanted`.

    Returns:
        A list of `Run`.
    """
    done = {(each.arm, each.learning_rate, each.seed) for each in records}
    choosing = []
    repeating = []
    for arm in arms:
        losses = validation_losses(records, arm)
        wanted = rates_wanted(losses, first_steps)
        choosing += [Run(arm, rate, _CHOOSING_SEED) for rate in wanted]
        if not wanted:
            rate = best_rate(losses)
            repeating += [Run(arm, rate, seed) for seed in range(num_seeds)]
    repeating.sort(key=lambda run: run.seed)
    return choosing + [run for run in repeating if run not in done]


def final_records(
    records: Sequence[Record], first_steps: Sequence[int]
) -> dict[str, list[Record]]:
    """Groups the runs at the best rate of every arm that has one.

    Args:
        records: list of `Record` of one study.
        first_steps: list of int. See `rates_wanted`.

    Returns:
        A dict from arm to its records, by seed.
    """
    groups = {}
    for arm in dict.fromkeys(record.arm for record in records):
        losses = validation_losses(records, arm)
        if losses and not rates_wanted(losses, first_steps):
            rate = best_rate(losses)
            groups[arm] = sorted(
                (
                    each
                    for each in records
                    if each.arm == arm and each.learning_rate == rate
                ),
                key=lambda each: each.seed,
            )
    return groups

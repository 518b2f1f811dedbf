"""Tables of a random search: what the best trials and budgets have reached."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from keras_comet.tuning import expected_best
from studies.budget import budget_ratio
from studies.search_space import PAPER_LEARNING_RATES
from studies.table import format_table
from studies.table import mean_and_error
from studies.table import standard_error
from studies.trials import Trial
from studies.trials import best_trials

# The paper takes the best 5 % of 500.
BEST_SHARE = 0.1

# Ends of the names of arms with local search.
_SEARCHES = ("search", "sinkhorn")


def group_trials(trials: Sequence[Trial]) -> dict[str, list[Trial]]:
    """Groups trials by arm, in the order of their numbers.

    Args:
        trials: list of `Trial` of one study.

    Returns:
        A dict from arm to list of `Trial`.
    """
    return {
        arm: sorted(
            (each for each in trials if each.arm == arm),
            key=lambda each: each.number,
        )
        for arm in dict.fromkeys(each.arm for each in trials)
    }


def trials_to_markdown(trials: Sequence[Trial], score: str) -> str:
    """Writes the table of all arms.

    Args:
        trials: list of `Trial` of one study.
        score: str. What the scores are.

    Returns:
        The table in Markdown, the smallest mean validation loss of the best
        tenth first.
    """
    header = (
        "arm",
        "trials",
        "validation loss, best tenth",
        "test loss, best tenth",
        "of one trial",
        "of the best trial",
        score,
        "experts a row",
        "within k",
        "dead",
        "seconds a trial",
        "learning rate",
        "gamma",
        "entropy",
        "search epochs",
    )
    rows = []
    for arm, group in group_trials(trials).items():
        best = best_trials(group, BEST_SHARE)
        validation = [each.validation_loss for each in best]
        reached = expected_best(*losses(group))
        setting = best[0].setting
        rows.append(
            (
                np.mean(validation),
                (
                    arm,
                    str(len(group)),
                    mean_and_error(validation),
                    mean_and_error([each.test_loss for each in best]),
                    f"{reached[0]:.4f}",
                    f"{reached[-1]:.4f}",
                    mean_and_error([each.score for each in best]),
                    f"{np.mean([each.cardinality for each in best]):.2f}",
                    f"{np.mean([each.within_k for each in best]):.3f}",
                    f"{np.mean([each.dead_experts for each in best]):.1f}",
                    f"{np.mean([each.seconds for each in group]):.0f}",
                    f"{setting.learning_rate:.2g}",
                    f"{setting.gamma:g}",
                    f"{setting.entropy_weight:g}",
                    str(setting.search_epochs),
                ),
            )
        )
    return format_table(header, [row for _, row in sorted(rows)])


def search_to_markdown(trials: Sequence[Trial]) -> str:
    """Writes what the local search adds to each gate.

    Differences are those of trials of the same number, which have the same
    learning rate, gamma and entropy weight, with a normal interval of 95 %. A
    ratio of budgets above 1 says that the search needs fewer trials; in
    brackets nine tenths of its bootstrap samples.

    Args:
        trials: list of `Trial` of one study.

    Returns:
        The table in Markdown, a line for each arm with a search.
    """
    header = (
        "arm",
        "pairs",
        "test loss with search, less without",
        "validation loss with search, less without",
        "budget without / with",
    )
    rows = []
    groups = group_trials(trials)
    for arm, on in groups.items():
        gate, _, search = arm.rpartition("_")
        off = groups.get(gate, [])
        if search not in _SEARCHES or not off:
            continue
        off_by_number = {each.number: each for each in off}
        pairs = [
            (off_by_number[each.number], each)
            for each in on
            if each.number in off_by_number
        ]
        ratio, low, high = budget_ratio(
            losses([plain for plain, _ in pairs]),
            losses([searched for _, searched in pairs]),
        )
        rows.append(
            (
                arm,
                str(len(pairs)),
                _difference([b.test_loss - a.test_loss for a, b in pairs]),
                _difference(
                    [b.validation_loss - a.validation_loss for a, b in pairs]
                ),
                f"{ratio:.2f} ({low:.2f} to {high:.2f})",
            )
        )
    return format_table(header, rows)


def narrow_to_markdown(trials: Sequence[Trial]) -> str:
    """Writes what the paper's learning rates would have shown.

    Args:
        trials: list of `Trial` of one study.

    Returns:
        The table in Markdown, of the trials within those rates.
    """
    low, high = PAPER_LEARNING_RATES
    header = (
        "arm",
        "trials within",
        "test loss, best tenth",
        "of all rates",
    )
    rows = []
    for arm, group in group_trials(trials).items():
        within = [each for each in group if low <= each.learning_rate <= high]
        if within:
            rows.append(
                (
                    arm,
                    str(len(within)),
                    *(
                        mean_and_error(
                            [
                                each.test_loss
                                for each in best_trials(some, BEST_SHARE)
                            ]
                        )
                        for some in (within, group)
                    ),
                )
            )
    return format_table(header, rows)


def losses(trials: Sequence[Trial]) -> tuple[list[float], list[float]]:
    """Returns what chooses and what is reported.

    Args:
        trials: list of `Trial`.

    Returns:
        The validation losses and the test losses.
    """
    return (
        [each.validation_loss for each in trials],
        [each.test_loss for each in trials],
    )


def _difference(values: Sequence[float]) -> str:
    mean = f"{np.mean(values):+.4f}"
    if len(values) < 2:
        return mean
    return f"{mean} ± {1.96 * standard_error(values):.4f}"

"""What a trial draws: the settings of the paper's random search.

The paper's learning rates, 5e-5 to 5e-4 for recommenders and 1e-4 to 1e-3 for
images, leave out the best rates of one expert, so these reach to 5e-3. Trials
of the same number draw the same learning rate in every arm, and arms that tune
gamma and the entropy weight the same of both: they differ in the gate alone.
"""

from __future__ import annotations

from collections.abc import Collection

import optuna

from studies.trials import Setting

_LEARNING_RATES = (1e-4, 5e-3)
_GAMMAS = (0.01, 0.1, 1.0, 5.0, 10.0)
# The paper's, and 0.01 below, as the best trials lay at 0.05.
_ENTROPY_WEIGHTS = (0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0)
_MOST_SEARCH_EPOCHS = 10

# What the paper tunes learning rates within, for recommenders.
PAPER_LEARNING_RATES = (5e-5, 5e-4)


def draw_setting(tuned: Collection[str], number: int) -> Setting:
    """Draws one setting, always the same for the same trial.

    Args:
        tuned: names of the fields of `Setting` that the arm tunes.
        number: int. Number of the trial, the seed of Optuna's sampler: a
            study that goes on draws settings it has not tried.

    Returns:
        A `Setting`.
    """
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        sampler = optuna.samplers.RandomSampler(seed=number)
        trial = optuna.create_study(sampler=sampler).ask()
    finally:
        optuna.logging.set_verbosity(verbosity)
    drawn = {
        # All are drawn, in this order, whatever is tuned.
        "learning_rate": trial.suggest_float(
            "learning_rate", *_LEARNING_RATES, log=True
        ),
        "gamma": trial.suggest_categorical("gamma", _GAMMAS),
        "entropy_weight": trial.suggest_categorical(
            "entropy_weight", _ENTROPY_WEIGHTS
        ),
        "search_epochs": trial.suggest_int(
            "search_epochs", 1, _MOST_SEARCH_EPOCHS
        ),
    }
    return Setting(**{name: drawn[name] for name in tuned})

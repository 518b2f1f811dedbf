"""Expected test loss of the best of m trials."""

from collections.abc import Sequence

import numpy as np

_RESAMPLES = 1000


def expected_best(
    validation_losses: Sequence[float] | np.ndarray,
    test_losses: Sequence[float] | np.ndarray,
) -> np.ndarray:
    """Computes what the best of m trials is expected to have as a test loss.

    Of m trials, drawn from those given without replacement, the one with the
    smallest validation loss is chosen. With N trials sorted by validation
    loss, the one at place i is chosen with probability
    `C(N - i, m - 1) / C(N, m)`; the test losses so weighted are `E(m)`.
    Trials of equal validation loss are chosen equally often. The definition
    is ours: the COMET paper names tuning budgets without one.

    Args:
        validation_losses: floats `(num_trials,)`, which choose. Infinity or
            NaN for a trial that diverged: it is chosen last.
        test_losses: floats `(num_trials,)`, finite. Read for what was chosen
            alone. Take the loss of an untrained model for a trial that
            diverged.

    Returns:
        Float64 array `(num_trials,)`: `E(1)`, the mean of all trials, to
        `E(num_trials)`, the test loss of the best one.

    Raises:
        ValueError: If there are no trials, the two differ in length, or a
            test loss is not finite.

    Example:

    ```python
    from keras_comet import tuning

    tuning.expected_best([0.3, 0.1, 0.2], [0.5, 0.2, 0.2])  # [.3, .2, .2]
    ```
    """
    validation, test = check_trials(validation_losses, test_losses)
    num_trials = len(validation)
    order = np.argsort(validation, kind="stable")
    _, group_of, counts = np.unique(
        validation[order], return_inverse=True, return_counts=True
    )
    test = (np.bincount(group_of, test[order]) / counts)[group_of]
    m = np.arange(1, num_trials + 1)[:, np.newaxis]
    place = np.arange(1, num_trials)[np.newaxis, :]
    # C(N - i - 1, m - 1) / C(N - i, m - 1), and m / N for the first place.
    ratios = np.maximum(num_trials - place - m + 1, 0) / (num_trials - place)
    chances = (
        m
        / num_trials
        * np.cumprod(np.concatenate([np.ones_like(m), ratios], axis=1), axis=1)
    )
    return chances @ test


def resample_expected_best(
    validation_losses: Sequence[float] | np.ndarray,
    test_losses: Sequence[float] | np.ndarray,
    num_resamples: int = _RESAMPLES,
    seed: int = 0,
) -> np.ndarray:
    """Computes `E(m)` of trials drawn with replacement, many times.

    Args:
        validation_losses: floats `(num_trials,)`.
        test_losses: floats `(num_trials,)`.
        num_resamples: int. Defaults to `1000`.
        seed: int. The same one draws the same trials of lists of the same
            length, so that arms with paired trials stay paired. Defaults to
            `0`.

    Returns:
        Float64 array `(num_resamples, num_trials)`.
    """
    validation, test = check_trials(validation_losses, test_losses)
    generator = np.random.default_rng(seed)
    draws = generator.integers(
        len(validation), size=(num_resamples, len(validation))
    )
    return np.stack(
        [expected_best(validation[draw], test[draw]) for draw in draws]
    )


def check_trials(
    validation_losses: Sequence[float] | np.ndarray,
    test_losses: Sequence[float] | np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns both as arrays; NaN becomes infinity in those that choose.

    Args:
        validation_losses: floats `(num_trials,)`.
        test_losses: floats `(num_trials,)`.

    Raises:
        ValueError: As `expected_best`.
    """
    validation = np.asarray(validation_losses, np.float64)
    test = np.asarray(test_losses, np.float64)
    if validation.ndim != 1 or not len(validation):
        raise ValueError(
            "Expected one validation loss for each of at least one trial. "
            f"Received: an array of shape {validation.shape}."
        )
    if test.shape != validation.shape:
        raise ValueError(
            "Expected a validation loss and a test loss for each trial. "
            f"Received: shapes {validation.shape} and {test.shape}."
        )
    diverged = np.flatnonzero(~np.isfinite(test))
    if len(diverged):
        raise ValueError(
            "Expected finite test losses. Take the loss of an untrained model "
            "for a trial that diverged. Received: "
            f"{test[diverged]} of the trials {diverged}."
        )
    return np.where(np.isnan(validation), np.inf, validation), test

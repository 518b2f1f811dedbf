"""Made-up tasks whose best routing is known."""

import numpy as np

from keras_comet.datasets.multitask_dataset import MultitaskDataset
from keras_comet.datasets.multitask_dataset import Split
from keras_comet.datasets.multitask_dataset import split_in_order

_GROUPS_PER_EXPERT = 2  # so that some groups must share their experts
_HIDDEN_UNITS = 8
_STEEPNESS = 2.0  # bends the experts clearly away from linear functions
_TANH_VARIANCE = 0.635  # of tanh(2 z), z standard normal
_LOGIT_SCALE = 4.0  # puts the labels of task_0 mostly beyond doubt
_MISSING = 0.2


def synthetic_multitask(
    num_rows: int = 4096,
    *,
    num_tasks: int = 2,
    num_experts: int = 4,
    num_features: int = 16,
    k: int = 1,
    noise: float = 0.1,
    seed: int = 0,
) -> MultitaskDataset:
    """Makes tasks that a mixture of experts can solve exactly.

    Experts are fixed random functions of `x` of about unit variance. Each row
    belongs to a group, and for each task a group has `k` true experts, whose
    mean output plus normal noise is the score of the row. What a gate that
    reads `group_id` should learn is in `ground_truth["assignment"]`.

    Args:
        num_rows: int. Rows in all: 80 % train, 10 % validation, 10 % test.
            Defaults to `4096`.
        num_tasks: int. Number of tasks. Defaults to `2`.
        num_experts: int. Number of true experts; there are twice as many
            groups. Defaults to `4`.
        num_features: int. Width of `x`. Defaults to `16`.
        k: int. True experts per group and task. Defaults to `1`.
        noise: float. Standard deviation of the noise. Defaults to `0.1`.
        seed: int. Fixes everything; the experts and their assignment do not
            depend on `num_rows`. Defaults to `0`.

    Returns:
        A `MultitaskDataset`. Features: `group_id`, int64, and `x`, float32
        `(rows, num_features)`. Labels, float32: `task_0` is 0 or 1, with a
        probability that is the sigmoid of 4 times the score; `task_1` and on
        are scores, a fifth of them missing as NaN. Its
        `ground_truth["assignment"]` holds the numbers of the true experts,
        `(num_tasks, num_groups, k)`.

    Raises:
        ValueError: If an argument is out of range.

    Example:

    ```python
    from keras_comet import datasets

    data = datasets.synthetic_multitask(num_rows=1000, num_experts=6, k=2)
    print(data.train.features["x"].shape)  # (800, 16)
    print(data.ground_truth["assignment"].shape)  # (2, 12, 2)
    ```
    """
    _check_at_least("num_rows", num_rows, 10, "every split needs a row")
    _check_at_least("num_tasks", num_tasks, 1, "there must be a task")
    _check_at_least("num_experts", num_experts, 1, "there must be an expert")
    _check_at_least("num_features", num_features, 1, "experts read features")
    _check_at_least("k", k, 1, "every group needs an expert")
    if k > num_experts:
        raise ValueError(
            "Expected at most as many true experts per group as there are "
            f"experts. Received: k={k}, num_experts={num_experts}. Lower `k`."
        )
    if not 0.0 <= noise < np.inf:
        raise ValueError(
            "Expected a finite standard deviation of at least 0. "
            f"Received: noise={noise}. Use 0.0 for no noise."
        )
    rng = np.random.default_rng(seed)
    assignment = _assign_experts(num_tasks, num_experts, k, rng)
    kernel = rng.normal(size=(num_experts, num_features, _HIDDEN_UNITS))
    kernel *= _STEEPNESS / num_features**0.5
    output = rng.normal(size=(num_experts, _HIDDEN_UNITS))
    output /= np.linalg.norm(output, axis=1, keepdims=True)

    num_groups = num_experts * _GROUPS_PER_EXPERT
    group_id = rng.integers(num_groups, size=num_rows)
    x = rng.normal(size=(num_rows, num_features))
    hidden = np.tanh(np.einsum("bd,ndh->bnh", x, kernel))
    outputs = np.einsum("bnh,nh->bn", hidden, output)  # (rows, experts)
    outputs /= _TANH_VARIANCE**0.5

    labels = {}
    for task, experts in enumerate(assignment):
        true_experts = experts[group_id]  # (rows, k)
        score = np.take_along_axis(outputs, true_experts, axis=1).mean(axis=1)
        score += noise * rng.normal(size=num_rows)
        chance = rng.random(num_rows)
        if task == 0:
            label = chance < 1.0 / (1.0 + np.exp(-_LOGIT_SCALE * score))
        else:
            label = np.where(chance < _MISSING, np.nan, score)
        labels[f"task_{task}"] = label.astype(np.float32)
    rows = Split({"group_id": group_id, "x": x.astype(np.float32)}, labels)
    train, validation, test = split_in_order(rows)
    return MultitaskDataset(
        name="synthetic_multitask",
        train=train,
        validation=validation,
        test=test,
        vocabularies={"group_id": np.arange(num_groups)},
        ground_truth={"assignment": assignment},
    )


def _assign_experts(
    num_tasks: int, num_experts: int, k: int, rng: np.random.Generator
) -> np.ndarray:
    """Distinct experts per group, all equally busy: `(tasks, groups, k)`."""
    everyone = np.tile(np.arange(num_experts), (num_tasks, _GROUPS_PER_EXPERT))
    first = rng.permuted(everyone, axis=1)  # (tasks, groups)
    others = np.tile(np.arange(1, num_experts), (*first.shape, 1))
    offsets = rng.permuted(others, axis=2)[:, :, : k - 1]
    rest = (first[:, :, np.newaxis] + offsets) % num_experts
    return np.concatenate([first[:, :, np.newaxis], rest], axis=2)


def _check_at_least(name: str, value: int, minimum: int, why: str) -> None:
    if value < minimum:
        raise ValueError(
            f"Expected `{name}` of at least {minimum}, since {why}. "
            f"Received: {name}={value}. Raise it."
        )

"""Routing statistics: what a gate does with a batch, in a few numbers."""

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from keras_comet.metrics.expert_usage import expert_usage
from keras_comet.metrics.routed_rows import mean_over
from keras_comet.metrics.routed_rows import routed_rows
from keras_comet.metrics.union_statistics import union_statistics
from keras_comet.ops import normalized_entropy


def routing_statistics(
    routing_weights: Any,
    k: int | Mapping[str, int] | None = None,
    union: bool = False,
) -> dict[str, Any]:
    """Describes how sparse the routing is and how evenly experts are used.

    | key | meaning |
    |---|---|
    | `cardinality` | mean number of nonzero weights per row |
    | `sparsity` | `1 - cardinality / num_experts` |
    | `normalized_entropy` | entropy of the usage / `log(num_experts)` |
    | `largest_share` | usage of the most used expert |
    | `active_experts` | number of experts that some row uses |
    | `dead_experts` | number of experts that no row uses |
    | `within_k` | share of rows with at most k nonzero weights |
    | `union_cardinality` | mean number of experts that any task uses per row |
    | `largest_union` | the largest number of them |

    Usage is `expert_usage`: 1 is the entropy of even usage (and of a single
    expert), 0 that of one expert which takes everything. Works in eager mode,
    in graphs and under XLA, has no state, and changes nothing.

    Rows with NaN are left out, and rows of padding, whose weights are all 0.
    If there is no row to count, no expert is active, and every mean is NaN: a
    mean of nothing has no value.

    Args:
        routing_weights: tensor or array `(..., num_experts)`, or a dict of
            them by task.
        k: int. The number of experts to count rows within; for a dict, one
            for all tasks or a dict by task, in which tasks may be missing.
            Defaults to `None`: no `within_k`.
        union: bool. Whether the tasks of a dict choose among the same
            experts, as those of one `MultiGateMixtureOfExperts` do, which
            computes the union of what they use. The statistics of each task
            then hold the last two, the same for all. Defaults to `False`.

    Returns:
        A dict from the keys above to float32 scalars; for a dict, a dict of
        such dicts by task.

    Raises:
        ValueError: If `k` is below 1 or names a task that is not there, the
            number of experts is not known, or `union=True` for weights that
            are no dict or differ in shape.

    Example:

    ```python
    import numpy as np
    import keras_comet

    gate = keras_comet.TopKGate(num_experts=8, k=2)
    weights = gate(np.random.normal(size=(32, 4)))
    statistics = keras_comet.routing_statistics(weights, k=2)
    float(statistics["cardinality"]), float(statistics["within_k"])  # 2.0, 1.0
    ```
    """
    by_task = isinstance(routing_weights, Mapping)
    if isinstance(k, Mapping) and not (
        by_task and set(k) <= set(routing_weights)
    ):
        tasks = list(routing_weights) if by_task else "one tensor, no dict"
        raise ValueError(
            "`k` may be a dict only by the tasks of `routing_weights`. "
            f"Received: k={dict(k)}, routing_weights of {tasks}"
        )
    shared = union_statistics(routing_weights) if union else {}
    if by_task:
        return {
            task: {
                **_statistics(
                    weights, k.get(task) if isinstance(k, Mapping) else k
                ),
                **shared,
            }
            for task, weights in routing_weights.items()
        }
    return _statistics(routing_weights, k)


def _statistics(routing_weights: Any, k: Any) -> dict[str, tf.Tensor]:
    if k is not None and k < 1:
        raise ValueError(f"`k` must be at least 1, or None. Received: k={k}")
    rows, is_counted = routed_rows(routing_weights)
    num_experts = rows.shape[-1]
    usage = expert_usage(routing_weights)
    is_used = tf.not_equal(rows, 0.0)
    num_used = tf.reduce_sum(tf.cast(is_used, tf.float32), axis=-1)
    cardinality = mean_over(is_counted, num_used)
    num_active = tf.reduce_sum(
        tf.cast(tf.reduce_any(is_used, axis=0), tf.float32)
    )
    statistics = {
        "cardinality": cardinality,
        "sparsity": 1.0 - cardinality / num_experts,
        "normalized_entropy": normalized_entropy(usage),
        "largest_share": tf.reduce_max(usage),
        "active_experts": num_active,
        "dead_experts": num_experts - num_active,
    }
    if k is not None:
        statistics["within_k"] = mean_over(
            is_counted, tf.cast(num_used <= float(k), tf.float32)
        )
    return statistics

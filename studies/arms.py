"""The arms that the studies have in common."""

from __future__ import annotations

import dataclasses
import functools

import keras_comet
from studies.study import Arm

# Entropy weights of gates that are not capped.
_ENTROPY_WEIGHTS = (0.0, 0.01, 0.03, 0.1)

# Learning rate of slow gates, relative to that of the experts.
_SLOW = 0.1


def gate_arms(
    num_experts: int,
    *,
    k: int = 2,
    deadline: int = 5,
    deviation_scale: float | None = None,
    several_tasks: bool = False,
    has_ids: bool = False,
) -> dict[str, Arm]:
    """Lists the baselines, and every gate of the package.

    One expert costs at inference what k of them do: it is k times as wide.
    An arm's name says what it is: `fast` gates learn as fast as experts, and
    other COMET and DSelect-k gates ten times slower; those that are `capped`
    keep the k largest weights of a row from the deadline on, or `late`, from
    four times that on, the others have an entropy weight; with a `base`,
    experts share one; with a `union` all tasks together keep so many experts
    of a row; in `cgc` each task has a quarter of the experts for itself, and
    half of them are shared.

    Args:
        num_experts: int.
        k: int. Defaults to `2`.
        deadline: int. Epochs until a `CardinalityTarget` caps. Defaults to
            `5`.
        deviation_scale: float. Of experts that share a base, for arms of
            their own. Defaults to `None`: there are none.
        several_tasks: bool. Whether there are two tasks: one model for each,
            caps on what both use and experts of their own are arms then.
            Defaults to `False`.
        has_ids: bool. Whether a hash gate has ids to read. Defaults to
            `False`.

    Returns:
        A dict from name to `Arm`.
    """

    def with_gate(make: type[keras_comet.Gate], **arguments: object) -> Arm:
        return Arm(
            num_experts, functools.partial(make, num_experts, **arguments)
        )

    def capped(
        make: type[keras_comet.Gate],
        by_epoch: int = deadline,
        union_cap: int | None = None,
        **arguments: object,
    ) -> Arm:
        return dataclasses.replace(
            with_gate(make, k=k, **arguments),
            make_callbacks=lambda: [
                keras_comet.CardinalityTarget(
                    by_epoch=by_epoch, union_cap=union_cap
                )
            ],
            counts_from=by_epoch + 1,
        )

    slow = {"learning_rate_multiplier": _SLOW}
    fast = {"learning_rate_multiplier": 1.0}
    comet = keras_comet.COMETGate
    one = Arm(1, functools.partial(keras_comet.SoftmaxGate, 1), width=k)
    arms = {"one": one}
    if several_tasks:
        arms["one_per_task"] = dataclasses.replace(one, apart=True)
    arms["softmax"] = with_gate(keras_comet.SoftmaxGate)
    arms["top_k"] = with_gate(keras_comet.TopKGate, k=k)
    arms["top_k_slow"] = with_gate(keras_comet.TopKGate, k=k, **slow)
    for weight in _ENTROPY_WEIGHTS:
        name = f"comet_{weight:g}"
        arms[name] = with_gate(comet, k=k, entropy_weight=weight, **slow)
    for weight in _ENTROPY_WEIGHTS[2:]:
        name = f"comet_fast_{weight:g}"
        arms[name] = with_gate(comet, k=k, entropy_weight=weight, **fast)
    arms["comet_capped"] = capped(comet, **slow)
    arms["comet_capped_0.03"] = capped(comet, entropy_weight=0.03, **slow)
    arms["comet_capped_late"] = capped(comet, by_epoch=4 * deadline, **slow)
    arms["comet_capped_fast"] = capped(comet, **fast)
    arms["dselect_k_capped"] = capped(keras_comet.DSelectKGate, **slow)
    if has_ids:
        arms["hash"] = with_gate(keras_comet.HashGate)
    if deviation_scale is not None:
        for name in ("softmax", "top_k", "comet_capped"):
            arms[f"{name}_base"] = dataclasses.replace(
                arms[name], deviation_scale=deviation_scale
            )
    if several_tasks and deviation_scale is not None:
        union = capped(comet, union_cap=k + 1, **slow)
        arms[f"comet_union_{k + 1}_base"] = dataclasses.replace(
            union, deviation_scale=deviation_scale
        )
        arms["cgc_capped_base"] = dataclasses.replace(
            arms["comet_capped_base"],
            num_experts=3 * num_experts // 4,
            make_gate=functools.partial(
                comet, 3 * num_experts // 4, k=k, **slow
            ),
            task_experts=num_experts // 4,
        )
    return arms

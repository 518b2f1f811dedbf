"""The arms that the studies have in common."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import keras_comet
from studies.study import Arm

ENTROPY_WEIGHTS = (0.01, 0.03, 0.1, 0.3)


def gate_arms(
    num_experts: int,
    *,
    k: int = 2,
    deadline: int = 5,
    entropy_weights: Sequence[float] = ENTROPY_WEIGHTS,
    several_tasks: bool = False,
    has_ids: bool = False,
) -> dict[str, Arm]:
    """Lists the baselines, and every gate of the package.

    One expert costs at inference what k of them do: it is k times as wide.

    Args:
        num_experts: int.
        k: int. Defaults to `2`.
        deadline: int. Epochs until a `CardinalityTarget` caps. Defaults to
            `5`.
        entropy_weights: list of float. One arm of COMET for each. Defaults to
            `ENTROPY_WEIGHTS`.
        several_tasks: bool. Whether one model for each task is an arm.
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

    one = Arm(1, functools.partial(keras_comet.SoftmaxGate, 1), width=k)
    arms = {"one": one}
    if several_tasks:
        arms["one_per_task"] = Arm(1, one.make_gate, width=k, apart=True)
    arms["softmax"] = with_gate(keras_comet.SoftmaxGate)
    arms["top_k"] = with_gate(keras_comet.TopKGate, k=k)
    for weight in entropy_weights:
        arms[f"comet_{weight:g}"] = with_gate(
            keras_comet.COMETGate, k=k, entropy_weight=weight
        )
    arms["comet_target"] = Arm(
        num_experts,
        functools.partial(keras_comet.COMETGate, num_experts, k=k),
        make_callbacks=lambda: [
            keras_comet.CardinalityTarget(by_epoch=deadline)
        ],
        counts_from=deadline,
    )
    arms["dselect_k"] = with_gate(
        keras_comet.DSelectKGate, k=k, entropy_weight=0.03
    )
    if has_ids:
        arms["hash"] = with_gate(keras_comet.HashGate)
    return arms

"""The arms of the paper's comparison: every gate, with and without search."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import keras_comet
from studies.study import Arm
from studies.study import TunedArm
from studies.trials import Setting

# Ours, and as ours stand: no setting is tuned in `comet_default`.
_DEADLINE = 5


def tuned_arms(
    num_experts: int,
    *,
    k: int = 2,
    several_tasks: bool = False,
    has_ids: bool = False,
) -> dict[str, TunedArm]:
    """Lists the baselines and the gates, those too with local search.

    `_search` is the search by swaps, `_sinkhorn` that by soft permutations,
    which is closer to the paper's. One expert, softmax, Top-k and Hash tune
    the learning rate; COMET and DSelect-k their gamma and entropy weight too,
    and learn as fast as the experts, as published; the search tunes its
    epochs. `comet_capped` is
    COMET with the defaults of this package and a `CardinalityTarget`, which
    tunes the learning rate; in `comet_default` that is the default as well.

    Args:
        num_experts: int.
        k: int. Defaults to `2`.
        several_tasks: bool. Whether one model for each task is an arm.
            Defaults to `False`.
        has_ids: bool. Whether a hash gate has ids to read. Defaults to
            `False`.

    Returns:
        A dict from name to `TunedArm`.
    """
    one = Arm(1, functools.partial(keras_comet.SoftmaxGate, 1), width=k)
    arms = {"one": TunedArm(("learning_rate",), lambda setting: one)}
    if several_tasks:
        arms["one_per_task"] = TunedArm(
            ("learning_rate",),
            lambda setting: dataclasses.replace(one, apart=True),
        )

    def add(
        name: str,
        make: Callable[..., keras_comet.Gate],
        tuned: tuple[str, ...] = (),
        **arguments: Any,
    ) -> None:
        def make_arm(setting: Setting, method: str = "exchange") -> Arm:
            chosen = {each: getattr(setting, each) for each in tuned}

            def make_gate() -> keras_comet.Gate:
                permutation = (
                    keras_comet.ExpertPermutation(num_experts)
                    if setting.search_epochs
                    else None
                )
                return make(
                    num_experts,
                    permutation=permutation,
                    **arguments,
                    **chosen,
                )

            return Arm(
                num_experts,
                make_gate,
                # Soft permutations give a row more than k experts.
                counts_from=(
                    setting.search_epochs + 1 if method == "sinkhorn" else 1
                ),
                search_epochs=setting.search_epochs,
                search_method=method,
            )

        arms[name] = TunedArm(("learning_rate", *tuned), make_arm)
        if make is not keras_comet.SoftmaxGate:
            searched = ("learning_rate", *tuned, "search_epochs")
            arms[f"{name}_search"] = TunedArm(searched, make_arm)
            arms[f"{name}_sinkhorn"] = TunedArm(
                searched, functools.partial(make_arm, method="sinkhorn")
            )

    add("softmax", keras_comet.SoftmaxGate)
    if has_ids:
        add("hash", keras_comet.HashGate)
    add("top_k", keras_comet.TopKGate, k=k)
    published = {"k": k, "learning_rate_multiplier": 1.0}
    tuned = ("gamma", "entropy_weight")
    add("dselect_k", keras_comet.DSelectKGate, tuned, **published)
    add("comet", keras_comet.COMETGate, tuned, **published)

    capped = Arm(
        num_experts,
        functools.partial(keras_comet.COMETGate, num_experts, k=k),
        make_callbacks=lambda: [
            keras_comet.CardinalityTarget(by_epoch=_DEADLINE)
        ],
        counts_from=_DEADLINE + 1,
    )
    arms["comet_capped"] = TunedArm(("learning_rate",), lambda setting: capped)
    arms["comet_default"] = TunedArm((), lambda setting: capped)
    return arms

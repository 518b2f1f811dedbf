"""Training: one step at given density, and whole epochs of MovieLens.

    python -m benchmarks.training_speed [--smoke] [--rounds N]

A step is forward, backward and Adam, of experts and gates on all sides. For
MovieLens, two equal models, one with `dispatch="auto"` and one with `"dense"`,
train in turns, an epoch each.
"""

import functools
import statistics
import time
import warnings
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from benchmarks import baselines
from benchmarks import movielens
from benchmarks import torch_baseline
from benchmarks import workloads
from benchmarks.measure import Ratio
from benchmarks.measure import bind
from benchmarks.measure import fastest
from benchmarks.measure import interleave
from benchmarks.measure import ratio
from benchmarks.plots import plot_training
from benchmarks.report import Report
from benchmarks.report import run_program

# So small that the weights stay what they are.
LEARNING_RATE = 1e-7

DENSE = ("dense loop", "dense einsum", "keras_comet dense")
AUTO = "keras_comet auto"

# As in dispatch_speed: above, einsum needs gigabytes and loses.
_EINSUM_UP_TO = 2**27

# Python is asked for the next step every so many steps, on both sides.
_STEPS_PER_EXECUTION = 16

# A gate counts as sparse once rows have so many experts more than k at most.
_NEARLY = 0.25


def make_step(
    mix: Callable[..., Any],
    variables: Sequence[Any],
    jit_compile: bool = False,
) -> Callable[..., Any]:
    """Forward, backward and Adam on the mean square of the mixtures.

    Args:
        mix: function of rows and a list of routing weights.
        variables: what to train, of Keras or TensorFlow.
        jit_compile: bool. Whether XLA compiles the step.

    Returns:
        A function of rows and a list of routing weights.
    """
    optimizer = keras.optimizers.Adam(LEARNING_RATE)
    optimizer.build(variables)
    sources = [v if isinstance(v, tf.Variable) else v.value for v in variables]

    @tf.function(jit_compile=jit_compile)
    def step(rows: tf.Tensor, routing_weights: list[tf.Tensor]) -> tf.Tensor:
        with tf.GradientTape() as tape:
            mixtures = mix(rows, routing_weights)
            loss = tf.add_n(
                [tf.reduce_mean(tf.cast(y, tf.float32) ** 2) for y in mixtures]
            )
        optimizer.apply(tape.gradient(loss, sources), variables)
        return loss

    return step


def compare_step(
    report: Report,
    rounds: int,
    num_experts: int,
    depth: int,
    widths: Sequence[int],
    batch: int,
    num_gates: int = 1,
    k: int = 2,
    stacked: bool = False,
) -> tuple[str, dict[str, Any]]:
    """Times one training step of one size in all ways.

    Returns:
        A label and the timings.
    """
    relu_last = len(widths) == 1
    layers = workloads.make_layers(num_experts, depth, *widths)
    rows = workloads.random_rows(batch, depth)
    weights = [
        workloads.balanced_weights(batch, num_experts, k, seed)
        for seed in range(num_gates)
    ]
    steps = {}
    for dispatch in ("auto", "dense"):
        make = workloads.stacked_experts if stacked else workloads.keras_experts
        mixture = workloads.make_mixture(
            make(layers, relu_last), num_gates, dispatch
        )
        mix = workloads.as_function(mixture)
        mix(tf.constant(rows), [tf.constant(w) for w in weights])
        steps[f"keras_comet {dispatch}"] = make_step(
            mix, mixture.trainable_variables
        )

    def add_baseline(name: str, mix: Any, variables: Sequence[Any]) -> None:
        gated, scales = workloads.with_gates(mix, num_experts, num_gates)
        steps[name] = make_step(gated, [*variables, *scales])

    for name in ("dense_loop", "masked_loop"):
        experts = baselines.make_perceptrons(layers, relu_last)
        add_baseline(
            name.replace("_", " "),
            functools.partial(getattr(baselines, name), experts),
            [v for expert in experts for v in expert.trainable_variables],
        )
    if batch * num_experts * max(widths) <= _EINSUM_UP_TO:
        einsum = baselines.DenseEinsum(layers, relu_last)
        add_baseline("dense einsum", einsum, einsum.trainable_variables)
    x, w = tf.constant(rows), [tf.constant(each) for each in weights]
    calls = {name: bind(step, x, w) for name, step in steps.items()}
    if torch_baseline.is_available():
        loop = torch_baseline.TorchIndexLoop(layers, relu_last, rows, weights)
        calls["PyTorch index loop"] = loop.make_training_step(LEARNING_RATE)
    timings = interleave(calls, rounds)
    label = (
        f"n={num_experts}, k={k}, {'-'.join(map(str, (depth, *widths)))}"
        f"{', stacked' if stacked else ''}"
        f"{', two gates' if num_gates == 2 else ''}, b={batch}"
    )
    report.add_timings("Training step, ms", timings, case=label)
    return label, timings


def compare_sparse_step(
    report: Report, rounds: int, limit: float, *size: Any, stacked: bool = False
) -> None:
    """A bar on a step at k/n density."""
    label, timings = compare_step(report, rounds, *size, stacked=stacked)
    report.require_ratio(
        f"training step, {label}",
        "x faster than dense",
        ">=",
        limit,
        ratio(timings, fastest(timings, *DENSE), AUTO),
    )


def compare_unsaturated_step(
    report: Report, rounds: int, num_experts: int, batch: int
) -> None:
    """A bar on what `auto` costs while all weights are nonzero."""
    size = (num_experts, 256, [256], batch, 2, num_experts)
    label, timings = compare_step(report, rounds, *size)
    report.require_ratio(
        f"training step, all weights nonzero, {label}",
        "x the time of dense",
        "<=",
        1.08,
        ratio(timings, AUTO, fastest(timings, *DENSE)),
    )


def compare_precisions(report: Report, rounds: int, smoke: bool) -> None:
    """A step in mixed precision and under XLA, faster or not."""
    batch = 256 if smoke else 4096
    num_experts = 4 if smoke else 16
    layers = workloads.make_layers(num_experts, 256, 256)
    rows = tf.constant(workloads.random_rows(batch, 256))
    weights = [tf.constant(workloads.balanced_weights(batch, num_experts, 2))]
    calls = {}
    for policy in ("float32", "mixed_bfloat16"):
        for dispatch, jit in (
            ("auto", False),
            ("dense", False),
            ("dense", True),
        ):
            mixture = workloads.make_mixture(
                workloads.keras_experts(layers, True, policy),
                1,
                dispatch,
                policy,
            )
            mix = workloads.as_function(mixture)
            mix(rows, weights)
            step = make_step(mix, mixture.trainable_variables, jit)
            name = f"{dispatch}, {policy}{', XLA' if jit else ''}"
            calls[name] = bind(step, rows, weights)
    report.add_timings(
        "Mixed precision and XLA, training step, ms",
        interleave(calls, rounds),
        case=f"n={num_experts}, k=2, 256-256, b={batch}",
    )


def train_movielens(report: Report, epochs: int, smoke: bool) -> None:
    """Trains with and without sparse dispatch, an epoch each in turns."""
    # Keras warns that the data set, and not fit(), shuffles; so it does.
    warnings.filterwarnings("ignore", message=".*shuffle=True.*")
    data = movielens.load_data(smoke)
    models = {
        dispatch: movielens.make_model(
            data,
            dispatch,
            movielens.dense_experts(4 if smoke else movielens.NUM_EXPERTS),
            steps_per_execution=_STEPS_PER_EXECUTION,
        )
        for dispatch in ("auto", "dense")
    }
    batches = {
        dispatch: data.train.batches(movielens.BATCH, shuffle=True)
        for dispatch in models
    }
    num_steps = len(batches["auto"])
    epoch_seconds: dict[str, list[float]] = {name: [] for name in models}
    processor_seconds: dict[str, list[float]] = {n: [] for n in models}
    experts: list[dict[str, float]] = []
    for epoch in range(epochs):
        # Whoever comes first in an epoch comes second in the next one.
        for name in sorted(models, reverse=bool(epoch % 2)):
            begin, busy = time.perf_counter(), time.process_time()
            models[name].fit(
                batches[name],
                initial_epoch=epoch,
                epochs=epoch + 1,
                verbose=0,
            )
            epoch_seconds[name].append(time.perf_counter() - begin)
            processor_seconds[name].append(time.process_time() - busy)
        experts.append(movielens.cardinality(models["auto"], data))
        report.add(
            "MovieLens, an epoch each in turns",
            [
                {
                    "epoch": epoch + 1,
                    **{
                        f"{name}, seconds": epoch_seconds[name][-1]
                        for name in models
                    },
                    **{
                        f"{name}, CPU seconds": processor_seconds[name][-1]
                        for name in models
                    },
                    **{f"experts, {t}": n for t, n in experts[-1].items()},
                }
            ],
        )
    plot_training(
        report.directory / "movielens_epochs.png",
        {
            name: [1e3 * s / num_steps for s in seconds]
            for name, seconds in epoch_seconds.items()
        },
        {
            task: [each[task] for each in experts]
            for task in experts[0]
            if task != "any"
        },
        movielens.K,
    )
    sparse = [
        epoch
        for epoch in range(1, epochs)
        if all(
            n <= movielens.K + _NEARLY
            for task, n in experts[epoch - 1].items()
            if task != "any"
        )
    ]
    if not sparse:
        sparse = list(range(2 * epochs // 3, epochs))
        report.note(
            "MovieLens: the gates did not settle on k experts in "
            f"{epochs} epochs; the bar takes the last {len(sparse)}."
        )
    clock, processor = (
        {
            name: statistics.median([values[epoch] for epoch in sparse])
            for name, values in seconds.items()
        }
        for seconds in (epoch_seconds, processor_seconds)
    )
    report.require_ratio(
        f"MovieLens, batch {movielens.BATCH}, an epoch once sparse",
        "x faster than dense",
        ">=",
        2.0,
        Ratio(
            clock["dense"] / clock["auto"],
            processor["dense"] / processor["auto"],
            len(sparse),
        ),
    )


def run(report: Report, rounds: int, smoke: bool) -> None:
    """Runs all cases."""
    if not torch_baseline.is_available():
        report.note(torch_baseline.MESSAGE)
    scale = 16 if smoke else 1
    batch = 4096 // scale
    num_experts = 4 if smoke else 16
    size = (num_experts, 256, [256], batch, 2)
    compare_sparse_step(report, rounds, 2.8, *size)
    compare_unsaturated_step(report, rounds, num_experts, batch)
    size = (num_experts // 2, 512, [2048 // scale, 512], batch)
    compare_sparse_step(report, rounds, 3.3, *size)
    compare_precisions(report, rounds, smoke)
    train_movielens(report, 2 if smoke else 9, smoke)
    # The largest come last: they need gigabytes, and may not get them.
    size = (64 // scale, 256, [1024 // scale, 256], 1024 // scale)
    for stacked in (False, True):
        compare_sparse_step(report, rounds, 7.0, *size, stacked=stacked)


if __name__ == "__main__":
    run_program("training_speed", __doc__, run)

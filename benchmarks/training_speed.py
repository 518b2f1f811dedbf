"""Training: one step at given density, and whole epochs of MovieLens.

A step is forward, backward and Adam, of experts and gates on all sides. For
MovieLens, two equal models, one with `dispatch="auto"` and one with `"dense"`,
train in turns, an epoch each.
"""

import pathlib
import statistics
import time
import warnings
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import keras
import matplotlib
import numpy as np
import tensorflow as tf

matplotlib.use("Agg")
from matplotlib import pyplot

import keras_comet
from benchmarks import torch_baseline
from benchmarks.measure import Ratio
from benchmarks.measure import Timing
from benchmarks.measure import bind
from benchmarks.measure import interleave
from benchmarks.report import Report
from benchmarks.sides import Case
from benchmarks.sides import make_precisions
from benchmarks.sides import make_step
from benchmarks.sides import require_no_slowdown
from benchmarks.sides import require_speedup
from examples import movielens_model as movielens

# Python is asked for the next step every so many steps, on both sides.
_STEPS_PER_EXECUTION = 16

# Epochs after which each gate keeps the k largest weights of a row.
_DEADLINE = 3


def time_step(
    report: Report, rounds: int, case: Case, batch: int, k: int = 2
) -> tuple[str, dict[str, Timing]]:
    """Times one training step in all ways."""
    label, calls = case.train(batch, k)
    timings = interleave(calls, rounds)
    report.add_timings("Training step, ms", timings, case=label)
    return label, timings


def compare_step(
    report: Report, rounds: int, case: Case, batch: int, limit: float
) -> None:
    """Adds a bar on a step at k/n density."""
    label, timings = time_step(report, rounds, case, batch)
    require_speedup(report, f"training step, {label}", timings, limit)


def compare_precisions(
    report: Report, rounds: int, case: Case, batch: int, smoke: bool
) -> None:
    """Times a step in mixed precision and under XLA, faster or not."""
    case = Case(case.num_experts, case.depth, case.widths)
    rows, weights = case.draw(batch, 2)
    arguments = tf.constant(rows), [tf.constant(w) for w in weights]
    calls = {
        name: bind(make_step(*side), *arguments)
        for name, side in make_precisions(case, smoke).items()
    }
    report.add_timings(
        "Mixed precision and XLA, training step, ms",
        interleave(calls, rounds),
        case=case.describe(batch, 2),
    )


def make_model(
    data: keras_comet.datasets.MultitaskDataset,
    num_experts: int,
    dispatch: str,
    **compile_arguments: Any,
) -> keras_comet.MultiGateRecommender:
    """Makes the MovieLens model with COMET gates, the same one every time."""
    keras.utils.set_random_seed(0)
    return movielens.make_model(
        data,
        lambda: keras_comet.COMETGate(num_experts, k=movielens.K),
        movielens.make_experts(num_experts),
        dispatch=dispatch,
        **compile_arguments,
    )


def cardinality(
    model: keras_comet.MultiGateRecommender,
    data: keras_comet.datasets.MultitaskDataset,
) -> dict[str, float]:
    """Counts experts per row, by task, and of all tasks under "any"."""
    rows = {n: v[:4096] for n, v in data.validation.features.items()}
    selected = {
        task: np.asarray(weights) > 0.0
        for task, weights in keras_comet.routing_weights(model, rows).items()
    }
    selected["any"] = np.any(list(selected.values()), axis=0)
    return {
        task: float(each.sum(axis=1).mean()) for task, each in selected.items()
    }


def train_movielens(report: Report, smoke: bool) -> None:
    """Trains with and without sparse dispatch, an epoch each in turns."""
    epochs, deadline = (2, 1) if smoke else (3 * _DEADLINE, _DEADLINE)
    # Keras warns that the data set, and not fit(), shuffles; so it does.
    warnings.filterwarnings("ignore", message=".*shuffle=True.*")
    data = movielens.load_data(smoke)
    num_experts = 2 if smoke else movielens.NUM_EXPERTS
    models = {
        dispatch: make_model(
            data,
            num_experts,
            dispatch,
            steps_per_execution=1 if smoke else _STEPS_PER_EXECUTION,
        )
        for dispatch in ("auto", "dense")
    }
    batches = {
        name: data.train.batches(movielens.BATCH_SIZE, shuffle=True)
        for name in models
    }
    # By epoch: dispatch to seconds, by the clock and of all processors.
    clock: list[dict[str, float]] = []
    processor: list[dict[str, float]] = []
    experts: list[dict[str, float]] = []
    for epoch in range(epochs):
        clock.append({})
        processor.append({})
        # Whoever comes first in an epoch comes second in the next one.
        for name in sorted(models, reverse=bool(epoch % 2)):
            begin, busy = time.perf_counter(), time.process_time()
            models[name].fit(
                batches[name],
                initial_epoch=epoch,
                epochs=epoch + 1,
                callbacks=[keras_comet.CardinalityTarget(by_epoch=deadline)],
                verbose=0,
            )
            clock[-1][name] = time.perf_counter() - begin
            processor[-1][name] = time.process_time() - busy
        experts.append(cardinality(models["auto"], data))
        row: dict[str, float] = {"epoch": epoch + 1}
        for name in models:
            row[f"{name}, seconds"] = clock[-1][name]
            row[f"{name}, CPU seconds"] = processor[-1][name]
        row |= {f"experts, {t}": n for t, n in experts[-1].items()}
        report.add("MovieLens, an epoch each in turns", [row])
    num_steps = len(batches["auto"])
    tasks = [task for task in experts[0] if task != "any"]
    plot_epochs(
        report.directory / "movielens_epochs.png",
        {n: [1e3 * each[n] / num_steps for each in clock] for n in models},
        {task: [each[task] for each in experts] for task in tasks},
    )
    sparse = range(deadline, epochs)
    dense_over_auto = [
        statistics.median(seconds[epoch]["dense"] for epoch in sparse)
        / statistics.median(seconds[epoch]["auto"] for epoch in sparse)
        for seconds in (clock, processor)
    ]
    report.require(
        f"MovieLens, batch {movielens.BATCH_SIZE}, an epoch once sparse",
        "x faster than dense",
        ">=",
        2.0,
        Ratio(*dense_over_auto, len(sparse)),
    )


def plot_epochs(
    path: pathlib.Path,
    milliseconds: Mapping[str, Sequence[float]],
    cardinality: Mapping[str, Sequence[float]],
) -> None:
    """Plots time per step by dispatch, and experts per row by task."""
    figure, axes = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for axis, label, curves in (
        (axes[0], "ms per training step", milliseconds),
        (axes[1], "experts per row", cardinality),
    ):
        for name, values in curves.items():
            epochs = range(1, 1 + len(values))
            axis.plot(epochs, values, marker="o", label=name)
        axis.set(xlabel="epoch", ylabel=label, ylim=(0, None))
        axis.grid(alpha=0.3)
        axis.legend(fontsize="small")
    axes[1].axhline(movielens.K, color="black", linewidth=0.8)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def run(report: Report, rounds: int, smoke: bool) -> None:
    """Runs all cases."""
    if not torch_baseline.is_available():
        report.note(torch_baseline.MESSAGE)
    if smoke:
        small = medium = large = Case(2, 16, [8], num_gates=2)
        stacked = Case(2, 16, [8], stacked=True)
        batches = [64] * 3
    else:
        small = Case(16, 256, [256], num_gates=2)
        medium = Case(8, 512, [2048, 512])
        large = Case(64, 256, [1024, 256])
        stacked = Case(64, 256, [1024, 256], stacked=True)
        batches = [4096, 4096, 1024]
    compare_step(report, rounds, small, batches[0], 2.8)
    label, timings = time_step(
        report, rounds, small, batches[0], k=small.num_experts
    )
    require_no_slowdown(
        report, f"training step, all weights nonzero, {label}", timings
    )
    compare_step(report, rounds, medium, batches[1], 3.3)
    compare_precisions(report, rounds, small, batches[0], smoke)
    train_movielens(report, smoke)
    # The largest come last: they need gigabytes, and may not get them.
    for case in (large, stacked):
        compare_step(report, rounds, case, batches[2], 7.0)

"""Inference of many tasks: a cap on the experts of a row against none.

Each of T tasks chooses k of n experts, all equally likely, so that a row
computes the union of T choices. Routing weights are given, and normalized as
a gate that trains does; the experts of both sides are the same.
"""

import numpy as np
import tensorflow as tf

from benchmarks import workloads
from benchmarks.measure import bind
from benchmarks.measure import compile_function
from benchmarks.measure import interleave
from benchmarks.measure import ratio
from benchmarks.report import Report

_K = 2


def compare(
    report: Report,
    rounds: int,
    num_tasks: int,
    experts: workloads.Layers,
    cap: int,
    limits: dict[int, float],
) -> None:
    """Times both sides for each batch, and adds a bar on their ratio.

    Args:
        report: where to write.
        rounds: int.
        num_tasks: int.
        experts: kernels and biases of the experts.
        cap: int. Number of experts per row.
        limits: dict from batch to the ratio that is to be reached.
    """
    num_experts, depth = experts[0][0].shape[:2]
    stacked = workloads.stacked_experts(experts)
    functions = {}
    for name, union_cap in (("no cap", num_experts), (f"cap of {cap}", cap)):
        combine, mixture = workloads.make_mixture(stacked, num_tasks, "auto")
        blank = np.ones((1, num_experts), "float32")
        # Creates the variables.
        combine(workloads.random_rows(1, depth), [blank] * num_tasks)
        mixture.union_cap.assign(union_cap)
        functions[name] = compile_function(combine)
    for batch, limit in limits.items():
        weights = [
            workloads.balanced_weights(batch, num_experts, _K, seed)
            for seed in range(num_tasks)
        ]
        rows = tf.constant(workloads.random_rows(batch, depth))
        given = [tf.constant(each) for each in weights]
        timings = interleave(
            {name: bind(f, rows, given) for name, f in functions.items()},
            rounds,
        )
        union = workloads.count_pairs(weights) / batch
        label = f"T={num_tasks}, n={num_experts}, k={_K}, b={batch}"
        report.add_timings(
            "Inference, ms a call",
            timings,
            case=label,
            union=f"{union:.1f} without a cap",
        )
        report.require(
            f"union cap of {cap}, {label}",
            "x faster than without",
            ">=",
            limit,
            ratio(timings, "no cap", f"cap of {cap}"),
        )


def run(report: Report, rounds: int, smoke: bool) -> None:
    """Runs all batches."""
    if smoke:
        layers = workloads.make_layers(8, 16, 16)
        compare(report, rounds, 3, layers, 2, {16: 0.1})
        return
    layers = workloads.make_layers(64, 256, 1024, 256)
    compare(report, rounds, 8, layers, 4, {1: 0.8, 64: 1.0, 1024: 2.0})

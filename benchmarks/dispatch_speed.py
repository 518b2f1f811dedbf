"""Inference of mixtures: sparse dispatch against computing all experts.

Routing weights are given, so that density and skew are known; all sides but
PyTorch's scale and normalize them, as a gate that trains does. "Dense" in a bar
is the fastest of three ways to compute all experts: a loop, einsum over
stacked kernels, and keras_comet with `dispatch="dense"`. "One expert" is one
dense expert on as many rows as there are (row, expert) pairs.
"""

import functools
import time
from typing import Any

import numpy as np
import tensorflow as tf

from benchmarks import baselines
from benchmarks import torch_baseline
from benchmarks import workloads
from benchmarks.measure import Timing
from benchmarks.measure import bind
from benchmarks.measure import check_agreement
from benchmarks.measure import compile_function
from benchmarks.measure import interleave
from benchmarks.measure import ratio
from benchmarks.report import Report
from benchmarks.sides import AUTO
from benchmarks.sides import Case
from benchmarks.sides import make_precisions
from benchmarks.sides import require_no_slowdown
from benchmarks.sides import require_speedup

_TABLE = "Inference, ms a call"


def time_case(
    report: Report, rounds: int, case: Case, batch: int, k: int = 2
) -> tuple[str, dict[str, Timing]]:
    """Times all ways to compute one case under balanced routing."""
    label, calls = case.infer(batch, k)
    timings = interleave(calls, rounds)
    report.add_timings(_TABLE, timings, case=label)
    return label, timings


def compare_sizes(report: Report, rounds: int, scale: int) -> None:
    """Times several sizes, smaller ones for a larger `scale`."""
    wide = Case(64 // scale, 256 // scale, [1024 // scale, 256], stacked=True)
    for batch, limit in ((4096 // scale, 20.0), (512 // scale, 9.0), (1, 10.0)):
        label, timings = time_case(report, rounds, wide, batch)
        require_speedup(report, f"inference, {label}", timings, limit)
        if limit == 20.0:
            require_near_one_expert(report, label, timings, 1.4)
    compare_skew(report, rounds, wide, 4096 // scale)
    num_experts = max(4, 16 // scale)
    for num_gates, limit in ((2, 3.0), (1, 4.5)):
        case = Case(num_experts, 256 // scale, [256], num_gates=num_gates)
        label, timings = time_case(report, rounds, case, 4096 // scale)
        require_speedup(report, f"inference, {label}", timings, limit)
        if num_gates == 2:
            label, timings = time_case(
                report, rounds, case, 4096 // scale, k=num_experts
            )
            require_no_slowdown(
                report, f"inference, all weights nonzero, {label}", timings
            )
    case = Case(max(4, 8 // scale), 512 // scale, [2048 // scale, 512])
    label, timings = time_case(report, rounds, case, 4096 // scale)
    require_speedup(report, f"inference, {label}", timings, 3.5)
    require_near_one_expert(report, label, timings, 1.15)
    compare_skew(report, rounds, case, 4096 // scale)


def require_near_one_expert(
    report: Report, label: str, timings: dict[str, Timing], limit: float
) -> None:
    """Adds a bar on our time over that of one expert on the same rows."""
    report.require(
        f"inference, {label}",
        "x the time of one expert on the same rows",
        "<=",
        limit,
        ratio(timings, AUTO, "one expert"),
    )


def compare_skew(report: Report, rounds: int, case: Case, batch: int) -> None:
    """Times balanced routing, and two experts that take 60 % of the pairs."""
    timings = interleave(case.infer_skewed(batch), rounds)
    label = case.describe(batch, 2)
    report.add_timings("Skewed routing, ms a call", timings, case=label)
    report.require(
        f"two experts take 60 %, {label}",
        "x the time of balanced routing",
        "<=",
        1.15,
        ratio(timings, "skewed", "balanced"),
    )


def compare_convolutions(
    report: Report, rounds: int, num_experts: int, batch: int
) -> None:
    """Times experts of convolutions and pooling."""
    experts = workloads.convolution_experts(num_experts)
    rows = tf.constant(workloads.random_rows(batch, 28, 28, 1))
    weights = workloads.balanced_weights(batch, num_experts, 2)
    signature = [
        tf.TensorSpec([None, 28, 28, 1], tf.float32),
        [tf.TensorSpec([None, num_experts], tf.float32)],
    ]
    functions: dict[str, Any] = {
        f"keras_comet {dispatch}": workloads.make_mixture(experts, 1, dispatch)[
            0
        ]
        for dispatch in ("auto", "dense")
    }
    for name in ("dense_loop", "masked_loop"):
        functions[name.replace("_", " ")], _ = workloads.with_gates(
            functools.partial(getattr(baselines, name), experts), num_experts, 1
        )
    calls = {
        name: bind(
            compile_function(f, input_signature=signature),
            rows,
            [tf.constant(weights)],
        )
        for name, f in functions.items()
    }
    check_agreement(calls)
    pairs = workloads.count_pairs([weights])
    calls["one expert"] = bind(
        compile_function(experts[0].__call__, input_signature=signature[:1]),
        tf.constant(workloads.random_rows(pairs, 28, 28, 1)),
    )
    timings = interleave(calls, rounds)
    label = f"convolutions, n={num_experts}, k=2, b={batch}"
    report.add_timings(_TABLE, timings, case=label)
    require_speedup(report, f"inference, {label}", timings, 3.0)


def compare_precisions(
    report: Report, rounds: int, case: Case, batch: int, smoke: bool
) -> None:
    """Times mixed precision and XLA, faster or not."""
    rows, weights = case.draw(batch, 2)
    arguments = tf.constant(rows), [tf.constant(w) for w in weights]
    calls = {
        name: bind(compile_function(combine, jit_compile=jit), *arguments)
        for name, (combine, _, jit) in make_precisions(case, smoke).items()
    }
    report.add_timings(
        "Mixed precision and XLA, inference, ms a call",
        interleave(calls, rounds),
        case=case.describe(batch, 2),
    )


def sweep(report: Report, rounds: int) -> None:
    """Times other batches, numbers of experts and densities."""
    wide = Case(64, 256, [1024, 256], stacked=True)
    small = Case(16, 256, [256])
    for case, batch, k in (
        *((wide, batch, 2) for batch in (8, 32, 128, 2048)),
        *(
            (Case(n, 256, [256], stacked=True), 1024, 2)
            for n in (4, 8, 16, 32, 64)
        ),
        *((small, 2048, k) for k in (1, 2, 4, 6, 8, 12, 16)),
    ):
        time_case(report, min(rounds, 7), case, batch, k)


def time_first_call(report: Report, num_experts: int, repeats: int) -> None:
    """Times the first call, which traces, with stacked experts."""
    layers = workloads.make_layers(num_experts, 256, 1024, 256)
    seconds = []
    for _ in range(repeats):
        function = compile_function(
            workloads.make_mixture(
                workloads.stacked_experts(layers), 1, "auto"
            )[0]
        )
        rows = tf.constant(workloads.random_rows(512, 256))
        weights = tf.constant(workloads.balanced_weights(512, num_experts, 2))
        begin = time.perf_counter()
        function(rows, [weights])
        seconds.append(time.perf_counter() - begin)
    report.add(
        "First call of a mixture with stacked experts",
        [{"n": num_experts, "seconds": s} for s in seconds],
    )
    report.require(
        f"first call, n={num_experts} stacked experts",
        "seconds",
        "<=",
        5.0,
        float(np.median(seconds)),
        len(seconds),
    )


def run(report: Report, rounds: int, smoke: bool) -> None:
    """Runs all cases."""
    if not torch_baseline.is_available():
        report.note(torch_baseline.MESSAGE)
    time_first_call(report, *((4, 1) if smoke else (64, 3)))
    compare_sizes(report, rounds, 16 if smoke else 1)
    compare_convolutions(report, rounds, *((2, 16) if smoke else (8, 256)))
    if smoke:
        compare_precisions(report, rounds, Case(2, 16, [16]), 64, smoke)
        return
    for case in (Case(16, 256, [256]), Case(8, 512, [2048, 512])):
        compare_precisions(report, rounds, case, 4096, smoke)
    sweep(report, rounds)

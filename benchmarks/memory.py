"""Peak memory of a training step and of inference, a process for each.

Each process builds one mixture, runs it a few times and reports the peak of
its resident memory. Linux only, as the peak is read from /proc.
"""

import math
import pathlib
import statistics
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import tensorflow as tf

from benchmarks import workloads
from benchmarks.measure import compile_function
from benchmarks.processes import call_in_a_process
from benchmarks.report import Report
from benchmarks.sides import make_step

# Experts, features, widths, rows, gates, stacked.
CASES: dict[str, tuple[Any, ...]] = {
    "n=16, Dense(256), two gates, b=4096": (16, 256, [256], 4096, 2, False),
    "n=64, 256-1024-256, b=1024": (64, 256, [1024, 256], 1024, 1, True),
    "n=8, 512-2048-512, b=4096": (8, 512, [2048, 512], 4096, 1, False),
}
SMOKE_CASES: dict[str, tuple[Any, ...]] = {
    "n=2, Dense(8), b=64": (2, 8, [8], 64, 1, False)
}

# Enough for the allocator to reach what it needs in the long run.
_CALLS = 5


def run_once(case: tuple[Any, ...], mode: str, dispatch: str) -> float:
    """Builds and runs one mixture in this process.

    Args:
        case: one of `CASES`.
        mode: str. `"training"` or `"inference"`.
        dispatch: str. As in `MixtureOfExperts`.

    Returns:
        Peak of the resident memory of this process, in MB.
    """
    num_experts, depth, widths, batch, num_gates, stacked = case
    make = workloads.stacked_experts if stacked else workloads.list_experts
    combine, mixture = workloads.make_mixture(
        make(workloads.make_layers(num_experts, depth, *widths)),
        num_gates,
        dispatch,
    )
    rows = tf.constant(workloads.random_rows(batch, depth))
    weights = [
        tf.constant(workloads.balanced_weights(batch, num_experts, 2, seed))
        for seed in range(num_gates)
    ]
    combine(rows[:1], [each[:1] for each in weights])
    if mode == "training":
        function = make_step(combine, mixture.trainable_variables)
    else:
        function = compile_function(combine)
    for _ in range(_CALLS):
        function(rows, weights)
    return read_peak()


def read_peak() -> float:
    """Reads the peak of the resident memory of this process, in MB."""
    status = pathlib.Path("/proc/self/status").read_text()
    line = next(x for x in status.splitlines() if x.startswith("VmHWM"))
    return float(line.split()[1]) / 1024


def measure(case: tuple[Any, ...], mode: str, dispatch: str) -> float:
    """Returns what `run_once` does in a new process, infinite if it fails."""
    try:
        return call_in_a_process(run_once, case, mode, dispatch)
    except (
        BrokenProcessPool,
        MemoryError,
        tf.errors.ResourceExhaustedError,
    ):
        return math.inf


def run(report: Report, rounds: int, smoke: bool) -> None:
    """Runs all cases, sparse and dense in turns."""
    for label, case in (SMOKE_CASES if smoke else CASES).items():
        for mode in ("inference", "training"):
            peaks: dict[str, list[float]] = {"sparse": [], "dense": []}
            repeats = 1 if smoke else min(rounds, 2)
            for _ in range(repeats):
                for dispatch, values in peaks.items():
                    values.append(measure(case, mode, dispatch))
            megabytes = {
                name: statistics.median(each) for name, each in peaks.items()
            }
            report.add(
                "Peak resident memory, MB",
                [{"case": label, "mode": mode, **megabytes}],
            )
            report.require(
                f"peak memory, {mode}, {label}",
                "x that of dense",
                "<=",
                1.0,
                megabytes["sparse"] / megabytes["dense"],
                repeats,
            )

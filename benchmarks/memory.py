"""Peak memory of a training step and of inference, a process for each.

    python -m benchmarks.memory [--smoke] [--rounds N]

Each process builds one mixture, runs it a few times and reports the peak of
its resident memory. Linux only, as the peak is read from /proc.
"""

import argparse
import json
import math
import os
import pathlib
import statistics
import subprocess
import sys
from typing import Any

from benchmarks.report import Report
from benchmarks.report import limit_memory
from benchmarks.report import run_program

# Experts, features, widths, rows, gates, stacked.
CASES: dict[str, tuple[Any, ...]] = {
    "n=16, Dense(256), two gates, b=4096": (16, 256, [256], 4096, 2, False),
    "n=64, 256-1024-256, b=1024": (64, 256, [1024, 256], 1024, 1, True),
    "n=8, 512-2048-512, b=4096": (8, 512, [2048, 512], 4096, 1, False),
}
SMOKE_CASES: dict[str, tuple[Any, ...]] = {
    "n=4, Dense(8), b=64": (4, 8, [8], 64, 1, False)
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
    # Not above: the process that starts the others needs none of it.
    import tensorflow as tf

    from benchmarks import workloads
    from benchmarks.training_speed import make_step

    num_experts, depth, widths, batch, num_gates, stacked = case
    layers = workloads.make_layers(num_experts, depth, *widths)
    make = workloads.stacked_experts if stacked else workloads.keras_experts
    mixture = workloads.make_mixture(
        make(layers, len(widths) == 1), num_gates, dispatch
    )
    del layers
    rows = tf.constant(workloads.random_rows(batch, depth))
    weights = [
        tf.constant(workloads.balanced_weights(batch, num_experts, 2, seed))
        for seed in range(num_gates)
    ]
    mix = workloads.as_function(mixture)
    mix(rows[:1], [each[:1] for each in weights])
    if mode == "training":
        function = make_step(mix, mixture.trainable_variables)
    else:
        function = tf.function(mix)
    for _ in range(_CALLS):
        function(rows, weights)
    return read_peak()


def read_peak() -> float:
    """The peak of the resident memory of this process, in MB."""
    status = pathlib.Path("/proc/self/status").read_text()
    line = next(x for x in status.splitlines() if x.startswith("VmHWM"))
    return float(line.split()[1]) / 1024


def measure(case: tuple[Any, ...], mode: str, dispatch: str) -> float:
    """What `run_once` returns in a new process.

    Returns:
        The peak in MB; infinite if the process could not get what it needs.
    """
    arguments = ["--child", json.dumps([case, mode, dispatch])]
    process = subprocess.run(
        [sys.executable, "-m", "benchmarks.memory", *arguments],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"},
    )
    if process.returncode:
        return math.inf
    return float(process.stdout.split()[-1])


def run(report: Report, rounds: int, smoke: bool) -> None:
    """Runs all cases, sparse and dense in turns."""
    for label, case in (SMOKE_CASES if smoke else CASES).items():
        for mode in ("inference", "training"):
            peaks: dict[str, list[float]] = {"sparse": [], "dense": []}
            repeats = min(rounds, 1 if smoke else 2)
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


def main() -> None:
    """Runs the benchmark, or one of the processes that it starts."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--child")
    args, others = parser.parse_known_args()
    if args.child is None:
        run_program("memory", __doc__ or "", run, others)
    else:
        limit_memory()
        print(run_once(*json.loads(args.child)))


if __name__ == "__main__":
    main()

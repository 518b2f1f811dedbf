"""The COMET gate against the recursive tree, other gates and bare products.

    python -m benchmarks.gate_speed [--smoke] [--rounds N]

The recursive tree computes the same formula node by node. "Two products" are
the gate's matrix products alone: what no COMET gate can go below, unless it
skips nodes. All are compiled with `tf.function`; forward and backward are for
the gradients of all weights.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

import keras_comet
from benchmarks import baselines
from benchmarks import workloads
from benchmarks.measure import Ratio
from benchmarks.measure import bind
from benchmarks.measure import check_agreement
from benchmarks.measure import interleave
from benchmarks.measure import ratio
from benchmarks.plots import plot_rows
from benchmarks.report import Report
from benchmarks.report import run_program

DEPTH = 256
COMET = "COMETGate"

# Nodes above which the recursive tree takes minutes to trace.
_RECURSIVE_UP_TO = 64


def two_products(gate: keras_comet.COMETGate) -> Callable[..., Any]:
    """The products of the rows with all split and all leaf kernels."""
    split = tf.Variable(_flat(gate.split_kernel))
    leaf = tf.Variable(_flat(gate.leaf_kernel))
    return lambda rows: (tf.matmul(rows, split), tf.matmul(rows, leaf))


def _flat(kernel: Any) -> np.ndarray:
    return np.asarray(kernel).reshape(DEPTH, -1)


def make_functions(
    num_experts: int, k: int, hard: bool
) -> dict[str, Callable[..., Any]]:
    """The gates of one size, as functions of rows."""
    comet = keras_comet.COMETGate(num_experts, k=k)
    comet.build((None, DEPTH))
    functions: dict[str, Callable[..., Any]] = {
        COMET: lambda rows: comet(rows, training=False)
    }
    if num_experts <= _RECURSIVE_UP_TO:
        functions["recursive tree"] = baselines.RecursiveTree(
            *(np.asarray(weight) for weight in comet.trainable_weights)
        )
    functions["two products"] = two_products(comet)
    if hard:
        hard_gate = keras_comet.COMETGate(num_experts, k=k, hard_routing=True)
        hard_gate.build((None, DEPTH))
        for own, given in zip(
            hard_gate.trainable_weights, comet.trainable_weights, strict=True
        ):
            own.assign(given)
        functions["COMETGate, hard"] = lambda rows: hard_gate(
            rows, training=False
        )
    for gate in (
        keras_comet.DSelectKGate(num_experts, k=k),
        keras_comet.TopKGate(num_experts, k=k),
        keras_comet.SoftmaxGate(num_experts),
    ):
        gate.build((None, DEPTH))
        functions[type(gate).__name__] = lambda rows, gate=gate: gate(
            rows, training=False
        )
    return functions


def with_gradients(function: Callable[..., Any]) -> Callable[..., Any]:
    """Forward and backward, for a fixed gradient of what is returned."""

    def step(rows: tf.Tensor) -> Any:
        with tf.GradientTape() as tape:
            outputs = tf.nest.flatten(function(rows))
            loss = tf.add_n([tf.reduce_sum(y * y) for y in outputs])
        return tape.gradient(loss, tape.watched_variables())

    return step


def compare(
    report: Report, rounds: int, num_experts: int, k: int, batch: int
) -> list[dict[str, Any]]:
    """Times one size, forward and with gradients."""
    rows = tf.constant(workloads.random_rows(batch, DEPTH))
    signature = [tf.TensorSpec([None, DEPTH], tf.float32)]
    label = f"n={num_experts}, k={k}, b={batch}"
    found = []
    for direction in ("forward", "forward and backward"):
        functions = make_functions(num_experts, k, direction == "forward")
        if direction != "forward":
            functions = {
                name: with_gradients(f) for name, f in functions.items()
            }
        calls = {
            name: bind(tf.function(f, input_signature=signature), rows)
            for name, f in functions.items()
        }
        if direction == "forward" and "recursive tree" in calls:
            check_agreement({n: calls[n] for n in (COMET, "recursive tree")})
        timings = interleave(calls, rounds)
        report.add_timings(
            f"Gates, {direction}, ms a call", timings, case=label
        )
        found += [
            {
                "method": name,
                "n": num_experts,
                "ms": 1e3 * timing.median,
                "direction": direction,
            }
            for name, timing in timings.items()
        ]
        if num_experts == 64 and batch == 4096:
            report.require_ratio(
                f"COMET gate, {label}, {direction}",
                "x faster than the recursive tree",
                ">=",
                5.0,
                ratio(timings, "recursive tree", COMET),
            )
            if direction == "forward":
                report.require_ratio(
                    f"COMET gate, {label}, {direction}",
                    "x its two matrix products",
                    "<=",
                    2.5,
                    ratio(timings, COMET, "two products"),
                )
    return found


def compare_growth(report: Report, rounds: int, batch: int) -> None:
    """Cost per expert at n = 1024 over that at n = 64, side by side."""
    rows = tf.constant(workloads.random_rows(batch, DEPTH))
    signature = [tf.TensorSpec([None, DEPTH], tf.float32)]
    for direction in ("forward", "forward and backward"):
        calls = {}
        for num_experts in (64, 1024):
            function = make_functions(num_experts, 2, False)[COMET]
            if direction != "forward":
                function = with_gradients(function)
            compiled = tf.function(function, input_signature=signature)
            calls[f"n={num_experts}"] = bind(compiled, rows)
        timings = interleave(calls, rounds)
        report.add_timings(
            "COMET gate at n=1024 and n=64, ms a call",
            timings,
            case=f"k=2, b={batch}, {direction}",
        )
        found = ratio(timings, "n=1024", "n=64")
        report.require_ratio(
            f"COMET gate, n=1024 against n=64, b={batch}, {direction}",
            "x the cost per expert",
            "<=",
            1.0,
            Ratio(
                found.clock * 64 / 1024,
                found.processor * 64 / 1024,
                found.rounds,
            ),
        )


def run(report: Report, rounds: int, smoke: bool) -> None:
    """Runs all sizes."""
    if smoke:
        compare(report, rounds, 8, 2, 64)
        return
    found = []
    for num_experts in (4, 16, 64, 256, 1024):
        found += compare(report, rounds, num_experts, 2, 512)
    for direction in ("forward", "forward and backward"):
        name = direction.replace(" ", "_")
        plot_rows(
            report.directory / f"gates_{name}_against_n.png",
            [row for row in found if row["direction"] == direction],
            "n",
            f"Gates, {direction}, k=2, b=512",
        )
    compare(report, rounds, 64, 2, 4096)
    for batch in (512, 4096):
        compare_growth(report, rounds, batch)


if __name__ == "__main__":
    run_program("gate_speed", __doc__, run)

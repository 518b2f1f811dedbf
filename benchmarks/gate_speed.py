"""The COMET gate against the recursive tree, other gates and bare products.

The recursive tree computes the same formula node by node. "Two products" are
the gate's matrix products alone: what no COMET gate can go below, unless it
skips nodes. All are compiled with `tf.function`; forward and backward are for
the gradients of all weights. "Training" is the gate as `fit` calls it, which
records its routing too.
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
from benchmarks.measure import compile_function
from benchmarks.measure import interleave
from benchmarks.measure import ratio
from benchmarks.report import Report

DEPTH = 256
COMET = "COMETGate"

_FORWARD = "forward"
_BOTH = "forward and backward"

# Nodes above which the recursive tree takes minutes to trace.
_RECURSIVE_UP_TO = 64


def make_functions(num_experts: int, k: int) -> dict[str, Callable[..., Any]]:
    """Makes the gates of one size, as functions of rows."""
    comet = keras_comet.COMETGate(num_experts, k=k)
    hard = keras_comet.COMETGate(num_experts, k=k, hard_routing=True)
    others = (
        keras_comet.DSelectKGate(num_experts, k=k),
        keras_comet.TopKGate(num_experts, k=k),
        keras_comet.SoftmaxGate(num_experts),
    )
    for gate in (comet, hard, *others):
        gate.build((None, DEPTH))
    for own, given in zip(
        hard.trainable_weights, comet.trainable_weights, strict=True
    ):
        own.assign(given)
    split, leaf = (
        tf.Variable(np.asarray(kernel).reshape(DEPTH, -1))
        for kernel in (comet.split_kernel, comet.leaf_kernel)
    )
    functions: dict[str, Callable[..., Any]] = {
        COMET: lambda rows: comet(rows, training=False),
        f"{COMET}, training": lambda rows: comet(rows, training=True),
        f"{COMET}, hard": lambda rows: hard(rows, training=False),
        "two products": lambda rows: (
            tf.matmul(rows, split),
            tf.matmul(rows, leaf),
        ),
    }
    if num_experts <= _RECURSIVE_UP_TO:
        functions["recursive tree"] = baselines.RecursiveTree(
            *(np.asarray(weight) for weight in comet.trainable_weights)
        )
    for gate in others:
        functions[type(gate).__name__] = lambda rows, gate=gate: gate(
            rows, training=False
        )
    return functions


def with_gradients(function: Callable[..., Any]) -> Callable[..., Any]:
    """Makes forward and backward, of the sum of squares."""

    def step(rows: tf.Tensor) -> Any:
        with tf.GradientTape() as tape:
            outputs = tf.nest.flatten(function(rows))
            loss = tf.add_n([tf.reduce_sum(y * y) for y in outputs])
        return tape.gradient(loss, tape.watched_variables())

    return step


def compare(
    report: Report, rounds: int, num_experts: int, k: int, batch: int
) -> None:
    """Times one size, forward and with gradients."""
    rows = tf.constant(workloads.random_rows(batch, DEPTH))
    signature = [tf.TensorSpec([None, DEPTH], tf.float32)]
    label = f"n={num_experts}, k={k}, b={batch}"
    for direction, absent in (
        (_FORWARD, f"{COMET}, training"),
        (_BOTH, f"{COMET}, hard"),
    ):
        functions = make_functions(num_experts, k)
        del functions[absent]
        if direction == _BOTH:
            functions = {
                name: with_gradients(f) for name, f in functions.items()
            }
        calls = {
            name: bind(compile_function(f, input_signature=signature), rows)
            for name, f in functions.items()
        }
        if direction == _FORWARD and "recursive tree" in calls:
            check_agreement({n: calls[n] for n in (COMET, "recursive tree")})
        timings = interleave(calls, rounds)
        report.add_timings(
            f"Gates, {direction}, ms a call", timings, case=label
        )
        if num_experts == 64 and batch == 4096:
            report.require(
                f"COMET gate, {label}, {direction}",
                "x faster than the recursive tree",
                ">=",
                5.0,
                ratio(timings, "recursive tree", COMET),
            )
            if direction == _FORWARD:
                report.require(
                    f"COMET gate, {label}, {direction}",
                    "x its two matrix products",
                    "<=",
                    2.5,
                    ratio(timings, COMET, "two products"),
                )


def compare_growth(report: Report, rounds: int, batch: int) -> None:
    """Cost per expert at n = 1024 over that at n = 64, side by side."""
    rows = tf.constant(workloads.random_rows(batch, DEPTH))
    signature = [tf.TensorSpec([None, DEPTH], tf.float32)]
    for direction in (_FORWARD, _BOTH):
        calls = {}
        for num_experts in (64, 1024):
            function = make_functions(num_experts, 2)[COMET]
            if direction == _BOTH:
                function = with_gradients(function)
            compiled = compile_function(function, input_signature=signature)
            calls[f"n={num_experts}"] = bind(compiled, rows)
        timings = interleave(calls, rounds)
        report.add_timings(
            "COMET gate at n=1024 and n=64, ms a call",
            timings,
            case=f"k=2, b={batch}, {direction}",
        )
        growth = ratio(timings, "n=1024", "n=64")
        report.require(
            f"COMET gate, n=1024 against n=64, b={batch}, {direction}",
            "x the cost per expert",
            "<=",
            1.0,
            Ratio(
                growth.clock * 64 / 1024,
                growth.processor * 64 / 1024,
                growth.rounds,
            ),
        )


def run(report: Report, rounds: int, smoke: bool) -> None:
    """Runs all sizes."""
    if smoke:
        compare(report, rounds, 5, 2, 64)
        return
    for num_experts in (4, 16, 64, 256, 1024):
        compare(report, rounds, num_experts, 2, 512)
    compare(report, rounds, 64, 2, 4096)
    for batch in (512, 4096):
        compare_growth(report, rounds, batch)

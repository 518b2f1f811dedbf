"""Inference of mixtures: sparse dispatch against computing all experts.

    python -m benchmarks.dispatch_speed [--smoke] [--rounds N]

Routing weights are given, so that density and skew are known; all sides but
PyTorch's scale and normalize them, as a gate that trains does. "Dense" in a bar
is the fastest of three ways to compute all experts: a loop, einsum over
stacked kernels, and keras_comet with `dispatch="dense"`. "One expert" is one
dense expert on as many rows as there are (row, expert) pairs.
"""

import functools
import time
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from benchmarks import baselines
from benchmarks import torch_baseline
from benchmarks import workloads
from benchmarks.measure import Timing
from benchmarks.measure import bind
from benchmarks.measure import check_agreement
from benchmarks.measure import fastest
from benchmarks.measure import interleave
from benchmarks.measure import ratio
from benchmarks.plots import plot_rows
from benchmarks.report import Report
from benchmarks.report import run_program

# Ways to compute all experts, of which the fastest counts.
DENSE = ("dense loop", "dense einsum", "keras_comet dense")
SPARSE = "keras_comet auto"

# Intermediate numbers above which einsum over all experts is left out, as
# the loop needs far less memory and time then.
_EINSUM_UP_TO = 2**27

TABLE = "Inference, ms a call"


class Case:
    """One size of mixture, with all ways to compute it.

    Args:
        num_experts: int.
        depth: int. Number of features.
        widths: list of int. Widths of the experts' layers.
        relu_last: bool. Whether the last layer has a relu too.
        stacked: bool. `StackedDenseExperts` or a list of Keras models.
        num_gates: int.
    """

    def __init__(
        self,
        num_experts: int,
        depth: int,
        widths: Sequence[int],
        relu_last: bool = False,
        stacked: bool = False,
        num_gates: int = 1,
    ) -> None:
        self.relu_last = relu_last
        self.num_gates = num_gates
        self.widths = widths
        self.layers = workloads.make_layers(num_experts, depth, *widths)
        self.perceptrons = baselines.make_perceptrons(self.layers, relu_last)
        make_experts = (
            workloads.stacked_experts if stacked else workloads.keras_experts
        )
        self.experts = make_experts(self.layers, relu_last)
        self.einsum = baselines.DenseEinsum(self.layers, relu_last)
        signature = [
            tf.TensorSpec([None, depth], tf.float32),
            [tf.TensorSpec([None, num_experts], tf.float32)] * num_gates,
        ]

        def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
            return tf.function(function, input_signature=signature)

        def gated(mix: Callable[..., Any]) -> Callable[..., Any]:
            return compiled(
                workloads.with_gates(mix, num_experts, num_gates)[0]
            )

        self.compiled = {
            "keras_comet auto": compiled(self._mixture("auto")),
            "keras_comet sparse": compiled(self._mixture("sparse")),
            "keras_comet dense": compiled(self._mixture("dense")),
            "dense loop": gated(
                lambda x, w: baselines.dense_loop(self.perceptrons, x, w)
            ),
            "dense einsum": gated(lambda x, w: self.einsum(x, w)),
            "masked loop": gated(
                lambda x, w: baselines.masked_loop(self.perceptrons, x, w)
            ),
        }
        self.one_expert = tf.function(
            lambda x: self.perceptrons[0](x), input_signature=signature[:1]
        )

    def describe(self, batch: int, k: int) -> str:
        """Says what is computed."""
        num_experts, depth, _ = self.layers[0][0].shape
        widths = "-".join(map(str, (depth, *self.widths)))
        gates = ", two gates" if self.num_gates == 2 else ""
        return f"n={num_experts}, k={k}, {widths}{gates}, b={batch}"

    def _mixture(self, dispatch: str) -> Callable[..., Any]:
        return workloads.as_function(
            workloads.make_mixture(self.experts, self.num_gates, dispatch)
        )

    def functions(
        self, rows: np.ndarray, weights: list[np.ndarray]
    ) -> dict[str, Callable[[], Any]]:
        """All ways to compute the mixture of these rows, without arguments."""
        x = tf.constant(rows)
        w = [tf.constant(each) for each in weights]
        functions = {
            name: bind(function, x, w)
            for name, function in self.compiled.items()
        }
        if (
            len(rows) * len(self.layers[0][0]) * max(self.widths)
            > _EINSUM_UP_TO
        ):
            del functions["dense einsum"]
        if torch_baseline.is_available():
            functions["PyTorch index loop"] = torch_baseline.TorchIndexLoop(
                self.layers, self.relu_last, rows, weights
            )
        check_agreement(functions)
        many = tf.constant(
            workloads.random_rows(
                workloads.count_pairs(weights), rows.shape[-1]
            )
        )
        functions["one expert"] = lambda: self.one_expert(many)
        return functions


def compare_sizes(report: Report, rounds: int, smoke: bool) -> None:
    """The bars on one size each."""
    scale = 16 if smoke else 1
    wide = Case(64 // scale, 256, [1024 // scale, 256], stacked=True)
    for batch, limit in ((4096 // scale, 20.0), (512 // scale, 9.0), (1, 10.0)):
        label, timings = time_case(report, rounds, wide, batch)
        require_speedup(report, label, timings, limit)
        if limit == 20.0:
            require_near_one_expert(report, label, timings, 1.4)
    compare_skew(report, rounds, wide, 4096 // scale)
    if not smoke:
        plot_batches(report, rounds, wide)

    for num_gates, limit in ((2, 3.0), (1, 4.5)):
        case = Case(
            4 if smoke else 16,
            256,
            [256],
            relu_last=True,
            num_gates=num_gates,
        )
        label, timings = time_case(report, rounds, case, 4096 // scale)
        require_speedup(report, label, timings, limit)
        if num_gates == 2:
            compare_unsaturated(report, rounds, case, 4096 // scale)

    case = Case(4 if smoke else 8, 512, [2048 // scale, 512])
    label, timings = time_case(report, rounds, case, 4096 // scale)
    require_speedup(report, label, timings, 3.5)
    require_near_one_expert(report, label, timings, 1.15)
    compare_skew(report, rounds, case, 4096 // scale)


def time_case(
    report: Report,
    rounds: int,
    case: Case,
    batch: int,
    k: int = 2,
) -> tuple[str, dict[str, Timing]]:
    """Times all ways to compute one case under balanced routing.

    Returns:
        What was computed, in words, and the timings.
    """
    num_experts, depth, _ = case.layers[0][0].shape
    weights = [
        workloads.balanced_weights(batch, num_experts, k, seed)
        for seed in range(case.num_gates)
    ]
    rows = workloads.random_rows(batch, depth)
    timings = interleave(case.functions(rows, weights), rounds)
    label = case.describe(batch, k)
    report.add_timings(TABLE, timings, case=label)
    return label, timings


def require_speedup(
    report: Report, label: str, timings: dict[str, Timing], limit: float
) -> None:
    """A bar on the time of the fastest dense way over ours."""
    dense = fastest(timings, *DENSE)
    report.require_ratio(
        f"inference, {label}",
        "x faster than dense",
        ">=",
        limit,
        ratio(timings, dense, SPARSE),
    )


def require_near_one_expert(
    report: Report, label: str, timings: dict[str, Timing], limit: float
) -> None:
    """A bar on our time over that of one expert on the same rows."""
    report.require_ratio(
        f"inference, {label}",
        "x the time of one expert on the same rows",
        "<=",
        limit,
        ratio(timings, SPARSE, "one expert"),
    )


def compare_unsaturated(
    report: Report, rounds: int, case: Case, batch: int
) -> None:
    """What `auto` costs while all weights are nonzero."""
    num_experts = len(case.layers[0][0])
    label, timings = time_case(report, rounds, case, batch, k=num_experts)
    report.require_ratio(
        f"inference, all weights nonzero, {label}",
        "x the time of dense",
        "<=",
        1.08,
        ratio(timings, SPARSE, fastest(timings, *DENSE)),
    )


def compare_skew(report: Report, rounds: int, case: Case, batch: int) -> None:
    """Balanced routing against two experts that take 60 % of the pairs."""
    num_experts, depth, _ = case.layers[0][0].shape
    rows = tf.constant(workloads.random_rows(batch, depth))
    balanced = tf.constant(workloads.balanced_weights(batch, num_experts, 2))
    skewed = tf.constant(workloads.skewed_weights(batch, num_experts))
    mix = case.compiled[SPARSE]
    timings = interleave(
        {
            "balanced": lambda: mix(rows, [balanced]),
            "skewed": lambda: mix(rows, [skewed]),
        },
        rounds,
    )
    label = case.describe(batch, 2)
    report.add_timings("Skewed routing, ms a call", timings, case=label)
    report.require_ratio(
        f"two experts take 60 %, {label}",
        "x the time of balanced routing",
        "<=",
        1.15,
        ratio(timings, "skewed", "balanced"),
    )


def compare_convolutions(report: Report, rounds: int, smoke: bool) -> None:
    """Experts of convolutions and pooling."""
    batch = 16 if smoke else 256
    num_experts = 3 if smoke else 8
    experts = workloads.convolution_experts(num_experts)
    rows = tf.constant(workloads.random_rows(batch, 28, 28, 1))
    weights = [tf.constant(workloads.balanced_weights(batch, num_experts, 2))]
    pairs = workloads.count_pairs([w.numpy() for w in weights])
    many = tf.constant(workloads.random_rows(pairs, 28, 28, 1))
    signature = [
        tf.TensorSpec([None, 28, 28, 1], tf.float32),
        [tf.TensorSpec([None, num_experts], tf.float32)],
    ]
    functions = {
        f"keras_comet {dispatch}": workloads.as_function(
            workloads.make_mixture(experts, 1, dispatch)
        )
        for dispatch in ("auto", "sparse", "dense")
    }
    for name in ("dense_loop", "masked_loop"):
        baseline = getattr(baselines, name)
        functions[name.replace("_", " ")], _ = workloads.with_gates(
            functools.partial(baseline, experts), num_experts, 1
        )
    compiled = {
        name: bind(tf.function(f, input_signature=signature), rows, weights)
        for name, f in functions.items()
    }
    check_agreement(compiled)
    one = tf.function(lambda x: experts[0](x), input_signature=signature[:1])
    compiled["one expert"] = lambda: one(many)
    timings = interleave(compiled, rounds)
    label = f"convolutions, n={num_experts}, k=2, b={batch}"
    report.add_timings(TABLE, timings, case=label)
    require_speedup(report, label, timings, 3.0)


def plot_batches(report: Report, rounds: int, case: Case) -> None:
    """Time against the batch size."""
    rows = []
    for batch in (1, 8, 32, 128, 512, 2048):
        _, timings = time_case(report, min(rounds, 7), case, batch)
        rows += flatten(timings, "batch", batch)
    path = report.directory / "dispatch_against_batch.png"
    plot_rows(path, rows, "batch", "Inference, n=64, k=2, 256-1024-256")


def plot_num_experts(report: Report, rounds: int) -> None:
    """Time against the number of experts at k = 2."""
    rows = []
    for num_experts in (4, 8, 16, 32, 64):
        case = Case(num_experts, 256, [256], relu_last=True, stacked=True)
        _, timings = time_case(report, min(rounds, 7), case, 1024)
        rows += flatten(timings, "n", num_experts)
    path = report.directory / "dispatch_against_n.png"
    plot_rows(path, rows, "n", "Inference, k=2, Dense(256), b=1024")


def plot_density(report: Report, rounds: int) -> None:
    """Time against the share of experts that a row gets."""
    case = Case(16, 256, [256], relu_last=True)
    rows = []
    for k in (1, 2, 4, 6, 8, 12, 16):
        _, timings = time_case(report, min(rounds, 7), case, 2048, k=k)
        rows += flatten(timings, "density", k / 16)
    path = report.directory / "dispatch_against_density.png"
    plot_rows(path, rows, "density", "Inference, n=16, Dense(256), b=2048")


def flatten(
    timings: dict[str, Timing], x: str, value: float
) -> list[dict[str, Any]]:
    """Rows for a plot."""
    return [
        {"method": name, x: value, "ms": 1e3 * timing.median}
        for name, timing in timings.items()
    ]


def compare_precisions(report: Report, rounds: int, smoke: bool) -> None:
    """Mixed precision and XLA, faster or not."""
    scale = 16 if smoke else 1
    sizes = (
        [(4, 32, [32])] if smoke else [(16, 256, [256]), (8, 512, [2048, 512])]
    )
    for num_experts, depth, widths in sizes:
        layers = workloads.make_layers(num_experts, depth, *widths)
        batch = 4096 // scale
        rows = tf.constant(workloads.random_rows(batch, depth))
        weights = [
            tf.constant(workloads.balanced_weights(batch, num_experts, 2))
        ]
        functions = {}
        for policy in ("float32", "mixed_bfloat16"):
            experts = workloads.keras_experts(layers, True, policy)
            for dispatch in ("auto", "dense"):
                mixture = workloads.as_function(
                    workloads.make_mixture(experts, 1, dispatch, policy)
                )
                for jit in (False, True):
                    if jit and dispatch == "auto":
                        continue  # under XLA every dispatch is dense
                    function = tf.function(mixture, jit_compile=jit)
                    name = f"{dispatch}, {policy}" + (", XLA" if jit else "")
                    functions[name] = bind(function, rows, weights)
        timings = interleave(functions, rounds)
        shape = "-".join(map(str, (depth, *widths)))
        report.add_timings(
            "Mixed precision and XLA, inference, ms a call",
            timings,
            case=f"n={num_experts}, k=2, {shape}, b={batch}",
        )


def time_first_call(report: Report, smoke: bool) -> None:
    """Seconds of the first call, which traces, with stacked experts."""
    num_experts = 8 if smoke else 64
    seconds = []
    for _ in range(2 if smoke else 3):
        experts = workloads.stacked_experts(
            workloads.make_layers(num_experts, 256, 1024, 256), False
        )
        function = tf.function(
            workloads.as_function(workloads.make_mixture(experts, 1, "auto"))
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
    time_first_call(report, smoke)
    compare_sizes(report, rounds, smoke)
    compare_convolutions(report, rounds, smoke)
    compare_precisions(report, rounds, smoke)
    if not smoke:
        plot_num_experts(report, rounds)
        plot_density(report, rounds)


if __name__ == "__main__":
    run_program("dispatch_speed", __doc__, run)

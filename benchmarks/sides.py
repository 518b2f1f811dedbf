"""Several ways to compute one mixture, for inference and for training."""

import functools
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from benchmarks import baselines
from benchmarks import torch_baseline
from benchmarks import workloads
from benchmarks.measure import Timing
from benchmarks.measure import bind
from benchmarks.measure import check_agreement
from benchmarks.measure import compile_function
from benchmarks.measure import fastest
from benchmarks.measure import ratio
from benchmarks.report import Report

AUTO = "keras_comet auto"

# Ways to compute all experts, of which the fastest counts.
DENSE = ("dense loop", "dense einsum", "keras_comet dense")

# Intermediate numbers above which einsum over all experts is left out, as
# the loop needs far less memory and time then.
_EINSUM_UP_TO = 2**27

_POLICIES = ("float32", "mixed_bfloat16")

# So small that the weights stay what they are.
_LEARNING_RATE = 1e-7


class Case:
    """One size of mixture, with all ways to compute it.

    Args:
        num_experts: int.
        depth: int. Number of features.
        widths: list of int. Widths of the experts' layers.
        stacked: bool. Whether ours are `StackedDenseExperts`, or else a list
            of Keras models. Defaults to `False`.
        num_gates: int. Defaults to `1`.
    """

    def __init__(
        self,
        num_experts: int,
        depth: int,
        widths: Sequence[int],
        stacked: bool = False,
        num_gates: int = 1,
    ) -> None:
        self.num_experts = num_experts
        self.depth = depth
        self.widths = widths
        self.stacked = stacked
        self.num_gates = num_gates
        self._layers = workloads.make_layers(num_experts, depth, *widths)

    def describe(self, batch: int, k: int) -> str:
        """Says what is computed."""
        return (
            f"n={self.num_experts}, k={k}, "
            f"{'-'.join(map(str, (self.depth, *self.widths)))}"
            f"{', stacked' if self.stacked else ''}"
            f"{', two gates' if self.num_gates == 2 else ''}, b={batch}"
        )

    def draw(self, batch: int, k: int) -> tuple[np.ndarray, list[np.ndarray]]:
        """Draws features, and balanced routing weights for each gate."""
        return workloads.random_rows(batch, self.depth), [
            workloads.balanced_weights(batch, self.num_experts, k, seed)
            for seed in range(self.num_gates)
        ]

    def make_ours(
        self, dispatch: str, policy: str = "float32"
    ) -> tuple[Callable[..., Any], Any]:
        """Makes the mixture of keras_comet, and the variables it trains."""
        experts = (
            workloads.stacked_experts(self._layers)
            if self.stacked
            else workloads.list_experts(self._layers, policy)
        )
        combine, mixture = workloads.make_mixture(
            experts, self.num_gates, dispatch, policy
        )
        # Creates the variables.
        combine(*self.draw(1, 1))
        return combine, mixture.trainable_variables

    def _make_sides(self) -> dict[str, tuple[Callable[..., Any], Any]]:
        """Makes each way to combine experts, with the variables it trains."""
        sides = {
            AUTO: self.make_ours("auto"),
            "keras_comet dense": self.make_ours("dense"),
        }
        for name in ("dense_loop", "masked_loop"):
            experts = baselines.make_perceptrons(self._layers)
            sides[name.replace("_", " ")] = self._with_gates(
                functools.partial(getattr(baselines, name), experts),
                [v for expert in experts for v in expert.trainable_variables],
            )
        einsum = baselines.DenseEinsum(self._layers)
        sides["dense einsum"] = self._with_gates(
            einsum, einsum.trainable_variables
        )
        return sides

    def _with_gates(
        self, combine: Callable[..., Any], variables: Sequence[Any]
    ) -> tuple[Callable[..., Any], list[Any]]:
        gated, scales = workloads.with_gates(
            combine, self.num_experts, self.num_gates
        )
        return gated, [*variables, *scales]

    @functools.cached_property
    def _inference(self) -> dict[str, Callable[..., Any]]:
        signature = [
            tf.TensorSpec([None, self.depth], tf.float32),
            [tf.TensorSpec([None, self.num_experts], tf.float32)]
            * self.num_gates,
        ]
        return {
            name: compile_function(combine, input_signature=signature)
            for name, (combine, _) in self._make_sides().items()
        }

    @functools.cached_property
    def _training(self) -> dict[str, Callable[..., Any]]:
        return {
            name: make_step(*side) for name, side in self._make_sides().items()
        }

    @functools.cached_property
    def _one_expert(self) -> Callable[..., Any]:
        [expert] = baselines.make_perceptrons(
            [(kernels[:1], biases[:1]) for kernels, biases in self._layers]
        )
        signature = [tf.TensorSpec([None, self.depth], tf.float32)]
        return compile_function(expert.__call__, input_signature=signature)

    def infer(
        self, batch: int, k: int = 2
    ) -> tuple[str, dict[str, Callable[[], Any]]]:
        """Prepares inference in all ways, described in words; they agree."""
        rows, weights = self.draw(batch, k)
        calls = self._bind(self._inference, rows, weights)
        if torch_baseline.is_available():
            calls["PyTorch index loop"] = torch_baseline.TorchIndexLoop(
                self._layers, rows, weights
            )
        check_agreement(calls)
        pairs = workloads.count_pairs(weights)
        many = tf.constant(workloads.random_rows(pairs, self.depth))
        calls["one expert"] = bind(self._one_expert, many)
        return self.describe(batch, k), calls

    def infer_skewed(self, batch: int) -> dict[str, Callable[[], Any]]:
        """Prepares ours under balanced routing, and under skewed routing."""
        rows, [balanced] = self.draw(batch, 2)
        skewed = workloads.skewed_weights(batch, self.num_experts)
        return {
            name: self._bind(self._inference, rows, [weights])[AUTO]
            for name, weights in (("balanced", balanced), ("skewed", skewed))
        }

    def train(
        self, batch: int, k: int = 2
    ) -> tuple[str, dict[str, Callable[[], Any]]]:
        """Prepares training steps in all ways, described in words."""
        rows, weights = self.draw(batch, k)
        calls = self._bind(self._training, rows, weights)
        if torch_baseline.is_available():
            loop = torch_baseline.TorchIndexLoop(self._layers, rows, weights)
            calls["PyTorch index loop"] = loop.make_training_step(
                _LEARNING_RATE
            )
        return self.describe(batch, k), calls

    def _bind(
        self,
        functions: Mapping[str, Callable[..., Any]],
        rows: np.ndarray,
        weights: list[np.ndarray],
    ) -> dict[str, Callable[[], Any]]:
        x, w = tf.constant(rows), [tf.constant(each) for each in weights]
        calls = {name: bind(f, x, w) for name, f in functions.items()}
        if len(rows) * self.num_experts * max(self.widths) > _EINSUM_UP_TO:
            del calls["dense einsum"]
        return calls


def make_step(
    combine: Callable[..., Any],
    variables: Sequence[Any],
    jit_compile: bool = False,
) -> Callable[..., Any]:
    """Makes forward, backward and Adam on the mean square of the mixtures."""
    optimizer = keras.optimizers.Adam(_LEARNING_RATE)
    optimizer.build(variables)
    sources = [v if isinstance(v, tf.Variable) else v.value for v in variables]

    def step(rows: tf.Tensor, routing_weights: list[tf.Tensor]) -> tf.Tensor:
        with tf.GradientTape() as tape:
            mixtures = combine(rows, routing_weights)
            loss = tf.add_n(
                [tf.reduce_mean(tf.cast(y, tf.float32) ** 2) for y in mixtures]
            )
        optimizer.apply(tape.gradient(loss, sources), variables)
        return loss

    return compile_function(step, jit_compile=jit_compile)


def make_precisions(
    case: Case, smoke: bool
) -> dict[str, tuple[Callable[..., Any], Any, bool]]:
    """Makes ours in two precisions: sparse, dense, and dense under XLA.

    Returns:
        A dict from name to a function of rows and a list of routing weights,
        the variables that it trains, and whether XLA is to compile it.
    """
    sides = {}
    for policy in ("mixed_bfloat16",) if smoke else _POLICIES:
        # Under XLA every dispatch is dense.
        for dispatch, jit in (
            ("auto", False),
            ("dense", False),
            ("dense", True),
        ):
            combine, variables = case.make_ours(dispatch, policy)
            name = f"{dispatch}, {policy}{', XLA' if jit else ''}"
            sides[name] = combine, variables, jit
    return sides


def require_speedup(
    report: Report, label: str, timings: Mapping[str, Timing], limit: float
) -> None:
    """Adds a bar on the time of the fastest dense way over ours."""
    dense = fastest(timings, *DENSE)
    report.require(
        label, "x faster than dense", ">=", limit, ratio(timings, dense, AUTO)
    )


def require_no_slowdown(
    report: Report, label: str, timings: Mapping[str, Timing]
) -> None:
    """Adds a bar on what `auto` costs while all weights are nonzero."""
    report.require(
        label,
        "x the time of dense",
        "<=",
        1.08,
        ratio(timings, AUTO, fastest(timings, *DENSE)),
    )

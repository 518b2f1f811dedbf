"""What a `CardinalityTarget` costs in training.

    python -m benchmarks.cardinality_overhead [--smoke] [--rounds N]

The model of the paper, dense, so that what sparsity saves does not show, in
the 400 steps until the deadline, about 3 epochs of 70,000 rows. The cost is
below the noise of whole training steps, so its parts are timed alone too.
"""

import time
import warnings
from typing import Any

import keras
import tensorflow as tf

import keras_comet
from benchmarks.cardinality_training import load_data
from benchmarks.measure import interleave
from benchmarks.movielens import BATCH
from benchmarks.movielens import NUM_EXPERTS
from benchmarks.movielens import dense_experts
from benchmarks.movielens import make_model
from benchmarks.report import Report
from benchmarks.report import run_program

# Steps until the deadline, and in one round.
_DEADLINE = 400
_STEPS = 16

# Percent of a training step.
_LARGEST_SHARE = 2.0


def run(report: Report, rounds: int, smoke: bool) -> None:
    """Compares training steps, then times the parts."""
    warnings.filterwarnings("ignore", message=".*shuffle=True.*")
    deadline = _STEPS * (rounds + 3) if smoke else _DEADLINE
    data, rows = load_data(
        "synthetic" if smoke else "movielens", BATCH * _STEPS
    )
    batches = rows.batches(BATCH).cache()

    def make() -> keras_comet.MultiGateRecommender:
        return make_model(
            data,
            "dense",
            dense_experts(),
            lambda: keras_comet.COMETGate(NUM_EXPERTS),
            keras.optimizers.Adam(5e-5),
        )

    target = keras_comet.CardinalityTarget(by_step=deadline)
    steered, fixed = make(), make()
    timings = interleave(
        {
            "with": lambda: steered.fit(batches, verbose=0, callbacks=[target]),
            "without": lambda: fixed.fit(batches, verbose=0),
        },
        # Each is called twice before the rounds.
        min(rounds, deadline // _STEPS - 3),
        longest=300.0,
    )
    report.add_timings(f"{_STEPS} training steps with two gates", timings)
    step = timings["without"].median / _STEPS
    parts = {
        "recording, every step": _time_recording(4 if smoke else 200),
        "100 updates until the deadline": (
            _time_update(target, deadline) * 100 / _DEADLINE
        ),
    }
    parts["sum"] = sum(parts.values())
    report.add(
        f"Parts, ms a step, and their share of one of {1e3 * step:.1f} ms",
        [
            {
                "part": name,
                "ms": f"{1e3 * seconds:.3f}",
                "share": f"{seconds / step:.2%}",
            }
            for name, seconds in parts.items()
        ],
    )
    report.require(
        "target, two gates",
        "percent of a training step",
        "<=",
        _LARGEST_SHARE,
        100.0 * parts["sum"] / step,
        timings["without"].rounds,
    )


def _time_recording(rounds: int) -> float:
    """Seconds that two gates take longer in training while steered."""
    x = tf.random.stateless_normal((BATCH, 256), seed=(0, 1))
    functions = {}
    for name, is_steered in (("with", True), ("without", False)):
        gates = [keras_comet.COMETGate(NUM_EXPERTS) for _ in range(2)]
        for gate in gates:
            gate.build(x.shape)
            gate.is_steered = is_steered

        @tf.function
        def differentiate(gates: Any = gates) -> Any:
            with tf.GradientTape() as tape:
                squares = [
                    tf.reduce_sum(tf.square(gate(x, training=True)))
                    for gate in gates
                ]
                losses = [loss for gate in gates for loss in gate.losses]
                loss = tf.add_n(squares + losses)
            return tape.gradient(loss, [g.split_kernel.value for g in gates])

        functions[name] = differentiate
    timings = interleave(functions, rounds)
    return timings["with"].median - timings["without"].median


def _time_update(target: keras_comet.CardinalityTarget, deadline: int) -> float:
    """Mean seconds of an update of two gates that are on their way."""
    begin = time.perf_counter()
    for moment in range(1, 100):
        target.update(moment / 100 * deadline)
    return (time.perf_counter() - begin) / 99


if __name__ == "__main__":
    run_program("cardinality_overhead", __doc__, run)

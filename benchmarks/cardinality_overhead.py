"""What a `CardinalityTarget` costs in training.

The model of the paper, dense, so that what sparsity saves does not show, in
the 400 steps until the deadline, about 3 epochs of 70,000 rows. The cost is
below the noise of whole training steps, so the updates are timed alone too.
What the gates record of their routing belongs to every training step, with a
target and without; `gate_speed` shows it.
"""

import time

import keras

import keras_comet
from benchmarks.measure import interleave
from benchmarks.report import Report
from examples import movielens_model as movielens

# Steps until the deadline, and in one round.
_DEADLINE = 400
_STEPS = 16

# Of these on the way to the deadline, whatever the number of steps.
_UPDATES = 100

# Percent of a training step.
_LARGEST_SHARE = 2.0


def run(report: Report, rounds: int, smoke: bool) -> None:
    """Compares training steps, then times the updates."""
    steps, num_experts = (2, 2) if smoke else (_STEPS, movielens.NUM_EXPERTS)
    data = movielens.load_data(smoke)
    batches = data.train.batches(32 if smoke else movielens.BATCH_SIZE)
    batches = batches.take(steps).cache()

    def make() -> keras_comet.MultiGateRecommender:
        return movielens.make_model(
            data,
            lambda: keras_comet.COMETGate(num_experts),
            movielens.make_experts(num_experts),
            keras.optimizers.Adam(5e-5),
            dispatch="dense",
        )

    target = keras_comet.CardinalityTarget(by_step=_DEADLINE)
    steered, fixed = make(), make()
    timings = interleave(
        {
            "with": lambda: steered.fit(batches, verbose=0, callbacks=[target]),
            "without": lambda: fixed.fit(batches, verbose=0),
        },
        # Each is called twice before the rounds.
        min(rounds, _DEADLINE // steps - 3),
        longest=300.0,
    )
    report.add_timings(f"{steps} training steps", timings)
    step = timings["without"].median / steps
    seconds = time_update(steered) * _UPDATES / _DEADLINE
    report.add(
        f"Updates, ms a step, and their share of one of {1e3 * step:.1f} ms",
        [
            {
                "part": f"{_UPDATES} updates until the deadline",
                "ms": f"{1e3 * seconds:.3f}",
                "share": f"{seconds / step:.2%}",
            }
        ],
    )
    report.require(
        f"target, {len(data.train.labels)} gates",
        "percent of a training step",
        "<=",
        _LARGEST_SHARE,
        100.0 * seconds / step,
        timings["without"].rounds,
    )


def time_update(model: keras_comet.MultiGateRecommender) -> float:
    """Times one update of gates that are on their way; the mean of many."""
    target = keras_comet.CardinalityTarget(by_step=_UPDATES)
    target.set_model(model)
    target.update(0)
    begin = time.perf_counter()
    for position in range(1, _UPDATES):
        target.update(position)
    return (time.perf_counter() - begin) / (_UPDATES - 1)

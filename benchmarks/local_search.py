"""What the local search finds, and what it costs.

    python -m benchmarks.local_search [--smoke] [--output-dir DIRECTORY]

Recovery of planted permutations by exchanges, by Sinkhorn and by the
published schedule; cost of a training step while searching; MovieLens-100k
with and without search. The last part takes most of the time:
`python -m benchmarks.local_search_movielens` runs it alone.
"""

import time
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

import keras_comet
from benchmarks.measure import interleave
from benchmarks.measure import ratio
from benchmarks.movielens import BATCH
from benchmarks.movielens import NUM_EXPERTS
from benchmarks.movielens import K
from benchmarks.movielens import dense_experts
from benchmarks.movielens import load_data
from benchmarks.movielens import make_model
from benchmarks.planted import GATES
from benchmarks.planted import PlantedProblem
from benchmarks.planted import search_as_published
from benchmarks.planted import train_permutation
from benchmarks.report import Report
from benchmarks.report import run_program

# Updates of the relaxed searches on planted problems.
_STEPS = 300


def exchange(problem: PlantedProblem, seed: int) -> None:
    """Verified exchanges."""
    optimizer = keras_comet.LocalSearchOptimizer("adam", search_steps=1)
    optimizer.search(problem.loss, [problem.permutation])


def sinkhorn(problem: PlantedProblem, seed: int) -> None:
    """Sinkhorn with the schedules that are the defaults."""
    optimizer = keras_comet.LocalSearchOptimizer(
        "adam", search_steps=_STEPS, method="sinkhorn"
    )
    train_permutation(problem, optimizer, _STEPS)


def published(problem: PlantedProblem, seed: int) -> None:
    """The published schedule, with the better of two learning rates."""
    best = None
    for learning_rate in (1e-3, 1e-2):
        search_as_published(problem, _STEPS, learning_rate, seed)
        if best is None or problem.recovered() > best[0]:
            best = (
                problem.recovered(),
                np.array(problem.permutation.assignment),
            )
    problem.permutation.freeze(best[1])


def recover(
    report: Report,
    name: str,
    search: Callable[[PlantedProblem, int], None],
    sizes: tuple[int, ...],
    seeds: int,
) -> None:
    """Appends one row for each gate and size."""
    for size in sizes:
        for gate in GATES:
            gaps, seconds = [], []
            for seed in range(seeds):
                problem = PlantedProblem(gate, size, seed)
                begin = time.perf_counter()
                search(problem, seed)
                seconds.append(time.perf_counter() - begin)
                gaps.append(problem.recovered())
            exact = sum(gap >= 1.0 - 1e-6 for gap in gaps)
            report.add(
                "Planted permutations recovered",
                [
                    {
                        "search": name,
                        "gate": gate,
                        "experts": size,
                        "exact": f"{exact} of {seeds}",
                        "share of the gap, median": float(np.median(gaps)),
                        "worst": float(min(gaps)),
                        "seconds, median": float(np.median(seconds)),
                    }
                ],
            )
            case = f"{name}, {gate}, n={size}"
            if name == "exchange":
                report.require(
                    case, "share exact", ">=", 1.0, exact / seeds, seeds
                )
            if name == "sinkhorn" and size == 16:
                report.require(
                    case,
                    "median share of the gap",
                    ">=",
                    0.9,
                    float(np.median(gaps)),
                    seeds,
                )
            if name == "exchange" and size == 64 and gate in ("hash", "top_k"):
                report.require(case, "s", "<=", 60.0, max(seconds), seeds)


def measure_cost(report: Report, rounds: int, smoke: bool) -> None:
    """What searching adds to training the MovieLens model."""
    data = load_data(smoke)
    interval = 10 if smoke else 200
    num_steps = 5 * interval
    steps = {}
    for name in ("plain", "plain, dense", "sinkhorn", "exchange"):
        permutation = keras_comet.ExpertPermutation(NUM_EXPERTS)
        optimizer = keras.optimizers.Adam(5e-4)
        if not name.startswith("plain"):
            # Longer than the measurement, so that it never ends.
            optimizer = keras_comet.LocalSearchOptimizer(
                optimizer, search_steps=10**6, method=name
            )
        model = make_model(
            data,
            "dense" if name == "plain, dense" else "auto",
            dense_experts(),
            lambda permutation=permutation: keras_comet.COMETGate(
                NUM_EXPERTS, k=K, entropy_weight=0.01, permutation=permutation
            ),
            optimizer,
        )
        batches = data.train.batches(BATCH).take(8).cache().repeat()
        callbacks = []
        if name == "exchange":
            callbacks = [
                keras_comet.LocalSearch(
                    data.train.batches(2 * BATCH), interval=interval
                )
            ]

        def step(
            model: keras.Model = model,
            batches: tf.data.Dataset = batches,
            callbacks: list[keras.callbacks.Callback] = callbacks,
        ) -> None:
            model.fit(
                batches,
                steps_per_epoch=num_steps,
                callbacks=callbacks,
                verbose=0,
            )

        steps[name] = step
    # Every fit traces the loss of the searches anew, which counts here.
    timings = interleave(steps, min(rounds, 3), longest=1e9)
    report.add_timings(
        f"{num_steps} training steps of the MovieLens model, a search by "
        f"exchanges every {interval}",
        timings,
    )
    # While P is soft, every row has all experts; so it is compared with both.
    for name, reference in (
        ("sinkhorn", "plain, dense"),
        ("sinkhorn", "plain"),
        ("exchange", "plain"),
    ):
        report.require_ratio(
            f"{name}, n=16, MovieLens model",
            f"x training, {reference}",
            "<=",
            1.15,
            ratio(timings, name, reference),
        )


def run(report: Report, rounds: int, smoke: bool) -> None:
    """Runs all parts."""
    seeds = 1 if smoke else 20
    recover(report, "exchange", exchange, (4,) if smoke else (8, 16), seeds)
    if not smoke:
        recover(report, "exchange", exchange, (64,), 3)
    recover(
        report, "sinkhorn", sinkhorn, (4,) if smoke else (16,), seeds // 2 or 1
    )
    recover(
        report,
        "published",
        published,
        (4,) if smoke else (16,),
        seeds // 2 or 1,
    )
    measure_cost(report, rounds, smoke)


if __name__ == "__main__":
    run_program("local_search", __doc__, run)

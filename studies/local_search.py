"""What the local search finds on planted problems, and what it costs.

    python -m studies local_search [--smoke] [--rounds N]

Recovery of planted permutations by exchanges, by Sinkhorn and by the
published schedule, and the cost of a training step while searching.
"""

import functools
import time
from collections.abc import Callable
from collections.abc import Sequence

import keras
import numpy as np

import keras_comet
from benchmarks.measure import interleave
from benchmarks.measure import ratio
from benchmarks.report import Report
from benchmarks.report import bars_to_markdown
from examples import movielens_model as movielens
from studies.command_line import make_parser
from studies.planted_permutation import GATES
from studies.planted_permutation import PlantedProblem
from studies.planted_permutation import search_as_published
from studies.planted_permutation import train_permutation


def exchange(problem: PlantedProblem, steps: int, seed: int) -> None:
    """Searches by verified exchanges."""
    optimizer = keras_comet.LocalSearchOptimizer("adam", search_steps=1)
    optimizer.search(problem.loss, [problem.permutation])


def sinkhorn(problem: PlantedProblem, steps: int, seed: int) -> None:
    """Searches by Sinkhorn with the schedules that are the defaults."""
    optimizer = keras_comet.LocalSearchOptimizer(
        "adam", search_steps=steps, method="sinkhorn"
    )
    train_permutation(problem, optimizer, steps)


def published(problem: PlantedProblem, steps: int, seed: int) -> None:
    """Searches as published, with the better of two learning rates."""
    best = None
    for learning_rate in (1e-3, 1e-2):
        search_as_published(problem, steps, learning_rate, seed)
        if best is None or problem.recovered() > best[0]:
            best = (
                problem.recovered(),
                np.array(problem.permutation.assignment),
            )
    problem.permutation.freeze(best[1])


def recover(
    report: Report,
    name: str,
    search: Callable[[PlantedProblem, int, int], None],
    sizes: tuple[int, ...],
    seeds: int,
    steps: int = 300,
    gates: Sequence[str] = GATES,
) -> None:
    """Searches planted problems; appends one row for each gate and size.

    Args:
        report: `Report`.
        name: str. Name of the search.
        search: function of the problem, the number of steps and the seed.
        sizes: tuple of int. Numbers of experts.
        seeds: int. Problems of each kind.
        steps: int. Updates of the relaxed searches. Defaults to `300`.
        gates: list of str. Defaults to all `GATES`.
    """
    for size in sizes:
        for gate in gates:
            gaps, seconds = [], []
            for seed in range(seeds):
                problem = PlantedProblem(gate, size, seed)
                begin = time.perf_counter()
                search(problem, steps, seed)
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
    """Measures what searching adds to training the MovieLens model."""
    data = movielens.load_data(smoke)
    num_experts = 3 if smoke else movielens.NUM_EXPERTS
    interval = 1 if smoke else 200
    num_steps = 1 if smoke else 5 * interval
    steps = {}
    for name in ("plain", "plain, dense", "sinkhorn", "exchange"):
        permutation = keras_comet.ExpertPermutation(num_experts)
        optimizer = keras.optimizers.Adam(5e-4)
        if not name.startswith("plain"):
            # Longer than the measurement, so that it never ends.
            optimizer = keras_comet.LocalSearchOptimizer(
                optimizer, search_steps=10**6, method=name
            )
        keras.utils.set_random_seed(0)
        model = movielens.make_model(
            data,
            lambda permutation=permutation: keras_comet.COMETGate(
                permutation.num_experts,
                k=movielens.K,
                entropy_weight=0.01,
                permutation=permutation,
            ),
            movielens.make_experts(num_experts),
            optimizer,
            dispatch="dense" if name == "plain, dense" else "auto",
        )
        callbacks = []
        if name == "exchange":
            search = keras_comet.LocalSearch(
                data.train.batches(2 * movielens.BATCH_SIZE), interval=interval
            )
            callbacks.append(search)
        steps[name] = functools.partial(
            model.fit,
            data.train.batches(movielens.BATCH_SIZE).take(8).cache().repeat(),
            steps_per_epoch=num_steps,
            callbacks=callbacks,
            verbose=0,
        )
    timings = interleave(steps, rounds, longest=1e9)
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
        report.require(
            f"{name}, n=16, MovieLens model",
            f"x training, {reference}",
            "<=",
            1.15,
            ratio(timings, name, reference),
        )


def main() -> None:
    """Reads the arguments and runs both parts."""
    parser = make_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    report = Report("local_search", args.output_dir, args.smoke)
    if args.smoke:
        recover(report, "exchange", exchange, (3,), 1)
        for search in (sinkhorn, published):
            name = search.__name__
            recover(report, name, search, (3,), 1, 3, GATES[:1])
        measure_cost(report, 1, args.smoke)
    else:
        recover(report, "exchange", exchange, (8, 16), 20)
        recover(report, "exchange", exchange, (64,), 3)
        recover(report, "sinkhorn", sinkhorn, (16,), 10)
        recover(report, "published", published, (16,), 10)
        measure_cost(report, args.rounds, args.smoke)
    print(f"\n{bars_to_markdown(report.bars)}")

"""Does the cap hold by the epoch named, whatever the settings, and for free?

    python -m benchmarks.cardinality grid [--data synthetic] [--runs N]
    python -m benchmarks.cardinality search [--trials N] [--seeds N]
    python -m benchmarks.cardinality curves
    python -m benchmarks.cardinality overhead
    python -m benchmarks.cardinality grid --smoke

`grid` draws --runs cells, without replacement and with a fixed seed, from
gamma {unset, 0.01, 0.1, 1, 10} x learning rate {5e-5, 2e-4, 5e-4} x experts
{16, 64} x k {1, 2, 4} x gate {comet, dselect_k} x 3 seeds: all 540 would
take half a day. Each cell is trained with a `CardinalityTarget` and without
one, with the entropy weight of the README, 0.01.

`search` trains --trials fixed pairs of gamma, log-uniform in [0.01, 10], and
entropy weight, log-uniform in [1e-4, 0.1], and then the default gate with a
`CardinalityTarget` on --seeds seeds, each on the same budget. The trial is
chosen by its validation loss: among those whose validation rows keep the cap,
99.9 % of them, and among all. The test loss is of the last epoch.

`curves` plots cardinality over epochs for two settings, a good and a careless
one, with a target and with fixed entropy weights instead.

`overhead` times training steps with and without a target, in turns.

Tables are printed and written to --output-dir, with the plots.
"""

import argparse
import itertools
import os
import pathlib
import time
import warnings
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import matplotlib
import numpy as np
import tensorflow as tf

matplotlib.use("Agg")
from matplotlib import pyplot as plt

import keras_comet
from benchmarks.cardinality_training import GATES
from benchmarks.cardinality_training import last
from benchmarks.cardinality_training import load_data
from benchmarks.cardinality_training import train_each
from benchmarks.cardinality_training import within_from
from benchmarks.measure import interleave
from benchmarks.movielens import BATCH
from benchmarks.movielens import dense_experts
from benchmarks.movielens import make_model
from benchmarks.report import Report

GAMMAS = (None, 0.01, 0.1, 1.0, 10.0)
LEARNING_RATES = (5e-5, 2e-4, 5e-4)
NUM_EXPERTS = (16, 64)
KS = (1, 2, 4)
SEEDS = (0, 1, 2)
FIXED_ENTROPY_WEIGHT = 0.01
SHARE = 0.999


def run_grid(args: argparse.Namespace) -> None:
    """Trains cells of the grid with and without a target."""
    cells = list(
        itertools.product(GATES, GAMMAS, LEARNING_RATES, NUM_EXPERTS, KS, SEEDS)
    )
    order = np.random.default_rng(0).permutation(len(cells))
    drawn = [cells[index] for index in order[: args.runs]]
    names = ("gate", "gamma", "learning_rate", "num_experts", "k", "seed")
    trainings = [
        {
            "data_name": args.data,
            "num_rows": args.rows,
            "epochs": args.epochs,
            **dict(zip(names, cell, strict=True)),
            **side,
        }
        for cell in drawn
        for side in (
            {"by_epoch": args.by_epoch, "export": True},
            {"entropy_weight": FIXED_ENTROPY_WEIGHT},
        )
    ]
    report = Report(
        f"cardinality_grid_{args.data}", args.output_dir, args.smoke
    )
    results = train_each(trainings, args.processes)
    pairs = []
    for cell in drawn:
        steered, fixed = next(results), next(results)
        pairs.append((cell[names.index("k")], steered, fixed))
        report.add(
            f"{args.rows} rows, {args.epochs} epochs, cap from epoch "
            f"{args.by_epoch}; without: entropy weight {FIXED_ENTROPY_WEIGHT}",
            [
                {
                    **dict(zip(names, cell, strict=True)),
                    "gamma": "unset" if cell[1] is None else cell[1],
                    "within k": f"{within_from(steered, args.by_epoch):.2%}",
                    "exported": f"{steered['exported']:.2%}",
                    "without": f"{within_from(fixed, args.by_epoch):.2%}",
                    **_side_by_side("dead", "dead_experts", steered, fixed),
                    **_side_by_side(
                        "entropy", "normalized_entropy", steered, fixed
                    ),
                    "test loss": f"{steered['test']:.4f}",
                    "loss without": f"{fixed['test']:.4f}",
                }
            ],
        )
    _summarize_grid(report, args.by_epoch, pairs)
    figure, axes = plt.subplots(
        1, 2, figsize=(9, 3.5), layout="constrained", sharey=True
    )
    titles = (
        "with CardinalityTarget",
        f"fixed entropy weight {FIXED_ENTROPY_WEIGHT}",
    )
    for side, (axis, title) in enumerate(zip(axes, titles, strict=True), 1):
        for pair in pairs:
            routing = pair[side]["routing"]
            axis.plot(
                range(1, len(routing) + 1),
                [np.mean(each["cardinality"]) / pair[0] for each in routing],
            )
        axis.axvline(args.by_epoch, color="black", linewidth=0.8)
        axis.axhline(1, color="black", linewidth=0.8)
        axis.set(title=title, xlabel="epoch", yscale="log")
    axes[0].set_ylabel("experts per row / k")
    figure.savefig(args.output_dir / f"grid_{args.data}.png", dpi=80)


def _side_by_side(
    column: str, name: str, steered: dict[str, Any], fixed: dict[str, Any]
) -> dict[str, str]:
    """Two cells of the table: with a target and without."""
    return {
        column: f"{last(steered, name):.2f}",
        f"{column} without": f"{last(fixed, name):.2f}",
    }


def _summarize_grid(report: Report, by_epoch: int, pairs: list[Any]) -> None:
    """Says in how many cells what the table is about came true."""
    least = min(within_from(steered, by_epoch) for _, steered, _ in pairs)
    exported = min(steered["exported"] for _, steered, _ in pairs)
    report.note(
        f"{len(pairs)} cells: at least {least:.2%} of the validation rows of "
        f"every gate within k, {exported:.2%} when exported."
    )
    more = [
        last(steered, "dead_experts") - last(fixed, "dead_experts")
        for _, steered, fixed in pairs
    ]
    error = np.std(more) / max(len(more) - 1, 1) ** 0.5
    report.note(
        f"Dead experts more than without, mean over the gates: in "
        f"{sum(each > 0 for each in more)} cells more, in "
        f"{sum(each < 0 for each in more)} fewer; at most {max(more):.1f}, on "
        f"average {np.mean(more):+.2f} +- {error:.2f}."
    )


def run_search(args: argparse.Namespace) -> None:
    """Compares a target, untuned, with the best of many fixed settings."""
    random = np.random.default_rng(0)
    budget = {
        "data_name": args.data,
        "num_rows": args.rows,
        "epochs": args.epochs,
        "learning_rate": args.learning_rate,
    }
    settings: list[dict[str, Any]] = [
        {"by_epoch": args.by_epoch, "seed": seed, "export": True}
        for seed in range(args.seeds)
    ]
    for trial in range(args.trials):
        settings.append(
            {
                "gamma": float(10.0 ** random.uniform(-2, 1)),
                "entropy_weight": float(10.0 ** random.uniform(-4, -1)),
                "seed": trial % args.seeds,
            }
        )
    report = Report(
        f"cardinality_search_{args.data}", args.output_dir, args.smoke
    )
    results = []
    for index, result in enumerate(
        train_each([budget | each for each in settings], args.processes)
    ):
        results.append(result)
        is_trial = index >= args.seeds
        setting = settings[index]
        report.add(
            f"{args.rows} rows, {args.epochs} epochs, learning rate "
            f"{args.learning_rate:g}",
            [
                {
                    "run": (
                        f"trial {index - args.seeds}"
                        if is_trial
                        else f"target, seed {index}"
                    ),
                    "gamma": (
                        f"{setting['gamma']:.3g}" if is_trial else "unset"
                    ),
                    "entropy weight": (
                        f"{setting['entropy_weight']:.2g}"
                        if is_trial
                        else "none"
                    ),
                    "validation loss": f"{result['validation']:.4f}",
                    "test loss": f"{result['test']:.4f}",
                    f"within k from epoch {args.by_epoch}": (
                        f"{within_from(result, args.by_epoch):.2%}"
                    ),
                    "cardinality": f"{last(result, 'cardinality'):.2f}",
                    "dead": f"{last(result, 'dead_experts'):.1f}",
                }
            ],
        )
    steered, trials = results[: args.seeds], results[args.seeds :]
    losses = [each["test"] for each in steered]
    error = np.std(losses, ddof=1) / len(losses) ** 0.5 if losses[1:] else 0.0
    report.note(
        f"Target: mean test loss {np.mean(losses):.4f} +- {error:.4f}; "
        f"{min(each['exported'] for each in steered):.2%} of rows within k in "
        "the exported models."
    )
    kept = [t for t in trials if within_from(t, args.epochs) >= SHARE]
    for name, group in (
        ("all", trials),
        (f"those with {SHARE:.1%} within k in the end", kept),
    ):
        if group:
            best = min(group, key=lambda each: each["validation"])
            report.note(
                f"Best of {len(group)} trials ({name}): test loss "
                f"{best['test']:.4f}, {within_from(best, args.epochs):.2%} "
                f"within k, cardinality {last(best, 'cardinality'):.2f}."
            )
        else:
            report.note(f"No trial among {name}.")
    report.save()


def run_curves(args: argparse.Namespace) -> None:
    """Plots cardinality over epochs, with and without a target."""
    curves = (
        ("gamma 1, target", "C0", "-", {"by_epoch": args.by_epoch}),
        (
            "gamma 10, target",
            "C1",
            "-",
            {"by_epoch": args.by_epoch, "gamma": 10.0},
        ),
        ("gamma 1, weight 0.01", "C0", "--", {"entropy_weight": 0.01}),
        (
            "gamma 10, weight 0.05",
            "C1",
            "--",
            {"entropy_weight": 0.05, "gamma": 10.0},
        ),
    )
    budget = {
        "data_name": args.data,
        "num_rows": args.rows,
        "epochs": args.epochs,
    }
    report = Report(
        f"cardinality_curves_{args.data}", args.output_dir, args.smoke
    )
    results = train_each(
        [budget | settings for *_, settings in curves], args.processes
    )
    figure, (cardinality, within) = plt.subplots(
        1, 2, figsize=(9, 3.4), layout="constrained"
    )
    for (name, color, style, _), result in zip(curves, results, strict=True):
        for axis, key in ((cardinality, "cardinality"), (within, "within_k")):
            values = [np.mean(each[key]) for each in result["routing"]]
            axis.plot(
                range(1, args.epochs + 1),
                values,
                style,
                color=color,
                label=name,
            )
        report.add(
            f"{args.rows} rows, {args.epochs} epochs",
            [
                {
                    "run": name,
                    "validation loss": f"{result['validation']:.4f}",
                    "test loss": f"{result['test']:.4f}",
                    "cardinality": f"{last(result, 'cardinality'):.2f}",
                    "within k": f"{last(result, 'within_k'):.2%}",
                }
            ],
        )
    for axis in (cardinality, within):
        axis.axvline(args.by_epoch, color="black", linewidth=0.8)
    cardinality.axhline(2, color="black", linewidth=0.8)
    cardinality.set(xlabel="epoch", ylabel="experts per validation row")
    cardinality.legend(fontsize="small")
    within.set(xlabel="epoch", ylabel="share of validation rows within k = 2")
    figure.savefig(args.output_dir / "cardinality.png", dpi=80)


def run_overhead(args: argparse.Namespace) -> None:
    """Times training steps with and without a target, in turns.

    The model of the paper, and the path to a deadline after 400 steps, about
    3 epochs of 70,000 rows. All experts are computed on both sides, whatever
    the gates say, so that the target's own cost shows and not what sparsity
    saves. As it is below the noise of steps, its parts are timed alone too.
    """
    num_turns, steps = (2, 2) if args.smoke else (48, 8)
    deadline = num_turns * steps + 16
    data, rows = load_data(args.data, BATCH * steps)
    batches = rows.batches(BATCH).cache()

    def make() -> keras_comet.MultiGateRecommender:
        return make_model(
            data,
            "dense",
            dense_experts(),
            lambda: keras_comet.COMETGate(16),
            keras.optimizers.Adam(5e-5),
        )

    target = keras_comet.CardinalityTarget(by_step=deadline)
    sides = {"with": (make(), [target]), "without": (make(), [])}
    seconds: dict[str, list[tuple[float, float]]] = {side: [] for side in sides}
    for turn in range(num_turns + 1):
        for side in reversed(sides) if turn % 2 else sides:
            model, callbacks = sides[side]
            begin = time.perf_counter(), time.process_time()
            model.fit(batches, verbose=0, callbacks=callbacks)
            end = time.perf_counter(), time.process_time()
            # The first one traces.
            if turn:
                seconds[side].append((end[0] - begin[0], end[1] - begin[1]))
    report = Report("cardinality_overhead", args.output_dir, args.smoke)
    for column, name in enumerate(("clock", "time of all processors")):
        times = {
            side: np.array(values)[:, column]
            for side, values in seconds.items()
        }
        medians = {side: np.median(values) for side, values in times.items()}
        lower, upper = np.quantile(
            times["with"] / times["without"], [0.25, 0.75]
        )
        ratio = medians["with"] / medians["without"]
        report.add(
            f"Training steps with a target over those without, {num_turns} "
            f"turns of {steps}",
            [
                {
                    "by": name,
                    "ms a step without": (
                        f"{1e3 * medians['without'] / steps:.1f}"
                    ),
                    "ratio of medians": f"{ratio:.3f}",
                    "quartiles of turns": f"{lower:.3f} to {upper:.3f}",
                }
            ],
        )
    step = float(np.median([clock for clock, _ in seconds["without"]])) / steps
    parts = {
        "recording, every step": _time_recording(),
        "update, 100 times": _time_update(target, deadline) * 100 / deadline,
    }
    report.add(
        "Parts of a target with two gates, ms a step, and their share of it",
        [
            {
                "part": name,
                "ms": f"{1e3 * value:.3f}",
                "share": f"{value / step:.2%}",
            }
            for name, value in (*parts.items(), ("sum", sum(parts.values())))
        ],
    )


def _time_recording() -> float:
    """Seconds that two gates take longer in training while steered."""
    x = tf.random.stateless_normal((BATCH, 256), seed=(0, 1))
    functions = {}
    for is_steered in (True, False):
        gates = [keras_comet.COMETGate(16) for _ in range(2)]
        for gate in gates:
            gate.build(x.shape)
            gate.is_steered = is_steered

        @tf.function
        def differentiate(gates: Any = gates) -> Any:
            with tf.GradientTape() as tape:
                loss = tf.add_n(
                    [
                        tf.reduce_sum(tf.square(gate(x, training=True)))
                        for gate in gates
                    ]
                    + [loss for gate in gates for loss in gate.losses]
                )
            return tape.gradient(loss, [g.split_kernel.value for g in gates])

        functions[str(is_steered)] = differentiate
    timings = interleave(functions, 200)
    return timings["True"].median - timings["False"].median


def _time_update(target: keras_comet.CardinalityTarget, deadline: int) -> float:
    """Seconds of one update of two gates that are on their way."""
    seconds = []
    for moment in range(1, 100):
        begin = time.perf_counter()
        target.update(moment / 100 * deadline)
        seconds.append(time.perf_counter() - begin)
    return float(np.median(seconds))


PARTS = {
    "grid": run_grid,
    "search": run_search,
    "curves": run_curves,
    "overhead": run_overhead,
}


def main() -> None:
    """Reads the arguments and runs one part."""
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--smoke", action="store_true", help="a quick look")
    parser.add_argument(
        "--data", choices=("movielens", "synthetic"), default="movielens"
    )
    parser.add_argument("--rows", type=int, default=70_000, help="to train on")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--by-epoch", type=int, default=3)
    parser.add_argument("--runs", type=int, default=24, help="of the grid")
    parser.add_argument("--trials", type=int, default=24, help="of the search")
    parser.add_argument("--seeds", type=int, default=3, help="of the search")
    parser.add_argument(
        "--learning-rate", type=float, default=2e-3, help="of the search"
    )
    parser.add_argument(
        "--processes", type=int, default=2, help="that train at once"
    )
    parser.add_argument(
        "--output-dir", type=pathlib.Path, default=pathlib.Path("runs")
    )
    args = parser.parse_args()
    warnings.filterwarnings("ignore", message=".*shuffle=True.*")
    if args.smoke:
        args.data, args.rows, args.epochs, args.by_epoch = (
            "synthetic",
            800,
            3,
            2,
        )
        args.runs, args.trials, args.seeds = 1, 1, 1
    PARTS[args.part](args)


if __name__ == "__main__":
    main()

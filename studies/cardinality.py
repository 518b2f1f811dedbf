"""Does the cap hold by the epoch named, whatever the settings, and for free?

    python -m studies cardinality grid [--data synthetic] [--runs N]
    python -m studies cardinality search [--trials N] [--seeds N]
    python -m studies cardinality curves
    python -m studies cardinality grid --smoke

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

Tables are printed and written to --output-dir, with the plots.
"""

import argparse
import itertools
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("Agg")
from matplotlib import pyplot as plt

from benchmarks.report import Report
from studies.cardinality_training import GATES
from studies.cardinality_training import last
from studies.cardinality_training import train_each
from studies.cardinality_training import within_from
from studies.command_line import make_parser

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
    if args.smoke:
        curves = curves[::2]
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


PARTS = {
    "grid": run_grid,
    "search": run_search,
    "curves": run_curves,
}


def main() -> None:
    """Reads the arguments and runs one part."""
    parser = make_parser(__doc__)
    parser.add_argument("part", choices=PARTS)
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
    args = parser.parse_args()
    if args.smoke:
        args.data, args.rows, args.epochs, args.by_epoch = (
            "synthetic",
            800,
            3,
            2,
        )
        args.runs, args.trials, args.seeds, args.processes = 1, 1, 1, 0
    PARTS[args.part](args)

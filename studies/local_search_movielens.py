"""MovieLens-100k with and without local search, over several seeds.

    python -m studies local_search_movielens [--seeds N] [--epochs N]
        [--searches off,exchange,sinkhorn]

Hash, Top-k and COMET (all: one permutation for both tasks), each trained
with equal budgets without and with search. The epoch of the smallest
validation loss counts, for all alike.
"""

import time

import keras
import numpy as np

import keras_comet
from benchmarks.report import Report
from examples import movielens_model as movielens
from studies.command_line import make_parser

GATES = ("hash", "top_k", "comet")
SEARCHES = ("off", "exchange", "sinkhorn")

# The first part of the training is searched.
_SHARE_SEARCHED = 0.5


def make_gate(
    gate: str, permutation: keras_comet.ExpertPermutation
) -> keras_comet.Gate:
    """Makes the gate of this name."""
    shared = {"permutation": permutation}
    if gate == "hash":
        return keras_comet.HashGate(permutation.num_experts, **shared)
    if gate == "top_k":
        return keras_comet.TopKGate(
            permutation.num_experts, k=movielens.K, **shared
        )
    return keras_comet.COMETGate(
        permutation.num_experts, k=movielens.K, entropy_weight=0.01, **shared
    )


def train(
    gate: str, search: str, seed: int, epochs: int, smoke: bool
) -> dict[str, object]:
    """Trains once; returns the row of the table."""
    keras.utils.set_random_seed(seed)
    data = movielens.load_data(smoke)
    steps = epochs * -(-data.train.num_rows // movielens.BATCH_SIZE)
    num_experts = 3 if smoke else movielens.NUM_EXPERTS
    permutation = keras_comet.ExpertPermutation(num_experts)
    optimizer = keras.optimizers.Adam(5e-4)
    callbacks: list[keras.callbacks.Callback] = [
        keras.callbacks.EarlyStopping(
            "val_loss", patience=epochs, restore_best_weights=True
        )
    ]
    if search != "off":
        optimizer = keras_comet.LocalSearchOptimizer(
            optimizer, max(1, int(_SHARE_SEARCHED * steps)), method=search
        )
        callbacks.append(
            keras_comet.LocalSearch(
                data.train.batches(2 * movielens.BATCH_SIZE),
                interval=1 if smoke else 200,
            )
        )
    model = movielens.make_model(
        data,
        lambda: make_gate(gate, permutation),
        movielens.make_experts(num_experts),
        optimizer,
    )
    begin = time.perf_counter()
    model.fit(
        data.train.batches(movielens.BATCH_SIZE, shuffle=True, seed=seed),
        epochs=epochs,
        validation_data=data.validation.batches(4096),
        callbacks=callbacks,
        verbose=0,
    )
    seconds = time.perf_counter() - begin
    test = model.evaluate(
        data.test.batches(data.test.num_rows), verbose=0, return_dict=True
    )
    reports = getattr(callbacks[-1], "reports", {})
    return {
        "gate": gate,
        "search": search,
        "seed": seed,
        "test loss": round(test["loss"], 5),
        "moves": sum(each.moves for each in reports.values()),
        "seconds": round(seconds, 1),
    }


def summarize(rows: list[dict[str, object]]) -> list[dict[str, object]]:
    """Computes means and errors, and the paired difference to no search."""
    summary = []
    for gate in GATES:
        losses = {
            search: {
                row["seed"]: row["test loss"]
                for row in rows
                if (row["gate"], row["search"]) == (gate, search)
            }
            for search in SEARCHES
        }
        for search in SEARCHES:
            seeds = sorted(losses[search].keys() & losses["off"].keys())
            if not seeds:
                continue
            values = np.array([losses[search][seed] for seed in seeds])
            change = values - [losses["off"][seed] for seed in seeds]
            root = np.sqrt(len(seeds))
            spread = values.std(ddof=1) / root if len(seeds) > 1 else np.nan
            paired = change.std(ddof=1) / root if len(seeds) > 1 else np.nan
            summary.append(
                {
                    "gate": gate,
                    "search": search,
                    "seeds": len(seeds),
                    "test loss": f"{values.mean():.4f} ± {spread:.4f}",
                    "change": (
                        ""
                        if search == "off"
                        else f"{change.mean():+.4f} ± {paired:.4f}"
                    ),
                }
            )
    return summary


def main() -> None:
    """Reads the arguments and runs everything, seed by seed."""
    parser = make_parser(__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--searches", default="off,exchange")
    args = parser.parse_args()
    gates = GATES
    if args.smoke:
        args.seeds, args.epochs, gates = 1, 1, ("top_k",)
    report = Report("local_search_movielens", args.output_dir, args.smoke)
    rows = []
    for seed in range(args.seeds):
        for gate in gates:
            for search in args.searches.split(","):
                row = train(gate, search, seed, args.epochs, args.smoke)
                rows.append(row)
                report.add(f"Every run, {args.epochs} epochs", [row])
    report.add("Mean and standard error over the seeds", summarize(rows))

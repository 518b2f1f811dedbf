"""Does the cap hold by the epoch named, whatever the settings, and for free?

    python benchmarks/cardinality.py grid --data movielens --output-dir runs/c
    python benchmarks/cardinality.py search --output-dir runs/c
    python benchmarks/cardinality.py curves --rows 150000 --epochs 8
    python benchmarks/cardinality.py overhead
    python benchmarks/cardinality.py grid --smoke

`grid` draws --runs cells, without replacement and with a fixed seed, from
gamma {unset, 0.01, 0.1, 1, 10} x learning rate {5e-5, 2e-4, 5e-4} x experts
{16, 64} x k {1, 2, 4} x gate {comet, dselect_k} x 3 seeds: all 540 would
take a day. Each cell is trained with a `CardinalityTarget` and without one,
with the entropy weight of the README, 0.01.

`search` trains --trials fixed pairs of gamma, log-uniform in [0.01, 10], and
entropy weight, log-uniform in [1e-4, 0.1], and then the default gate with a
`CardinalityTarget` on --seeds seeds, each on the same budget. The trial is
chosen by its validation loss: among those whose validation rows keep the cap,
99.9 % of them, and among all. The test loss is of the last epoch.

`curves` plots cardinality over epochs for two settings, a good and a careless
one, with a target and with fixed entropy weights instead.

`overhead` times training steps with and without a target, in turns.

Training sees the first --rows rows. Tables are printed in Markdown, and written
to --output-dir with the plots.
"""

import argparse
import itertools
import math
import os
import pathlib
import tempfile
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
from keras_comet import datasets
from keras_comet.gates.base import observe_gates

GAMMAS = (None, 0.01, 0.1, 1.0, 10.0)
LEARNING_RATES = (5e-5, 2e-4, 5e-4)
NUM_EXPERTS = (16, 64)
KS = (1, 2, 4)
GATES = {
    "comet": keras_comet.COMETGate,
    "dselect_k": keras_comet.DSelectKGate,
}
SEEDS = (0, 1, 2)
FIXED_ENTROPY_WEIGHT = 0.01
SHARE = 0.999


def load_data(
    name: str, num_rows: int
) -> tuple[datasets.MultitaskDataset, datasets.Split]:
    """Returns a data set and the rows of it to train on."""
    data = (
        datasets.movielens_100k()
        if name == "movielens"
        else datasets.synthetic_multitask(2 * num_rows, num_experts=8, k=2)
    )
    train = data.train
    return data, datasets.Split(
        {key: values[:num_rows] for key, values in train.features.items()},
        {key: values[:num_rows] for key, values in train.labels.items()},
    )


def make_model(
    data: datasets.MultitaskDataset,
    make_gate: Any,
    num_experts: int,
    learning_rate: float,
    units: int = 64,
    dispatch: str = "auto",
) -> keras_comet.MultiGateRecommender:
    """The model of the paper, whose experts have 256 units."""
    binary, *others = data.train.labels
    missing = 0.0 if binary == "watch" else float("nan")
    tasks = [
        keras_comet.Task(
            binary,
            loss="binary_crossentropy",
            weight=0.9,
            activation="sigmoid",
        ),
        *(
            keras_comet.Task(
                name,
                loss="mse",
                weight=0.1 / len(others),
                missing_label=missing,
            )
            for name in others
        ),
    ]
    features = {
        name: (
            keras_comet.CategoricalFeature(
                data.vocabularies[name], embedding_dim=128
            )
            if name in data.vocabularies
            else keras_comet.NumericFeature(values.mean(0), values.var(0))
        )
        for name, values in data.train.features.items()
    }
    model = keras_comet.MultiGateRecommender(
        features=features,
        experts=[
            keras.Sequential(
                [
                    keras.layers.Dense(units, activation="relu"),
                    keras.layers.Dropout(0.5),
                ]
            )
            for _ in range(num_experts)
        ],
        gates={task.name: make_gate(num_experts) for task in tasks},
        tasks=tasks,
        tower_units=[units],
        dispatch=dispatch,
    )
    model.compile(keras.optimizers.Adam(learning_rate))
    return model


class ServedRouting(keras.Model):
    """What an exported recommender does, with routing weights as outputs."""

    def __init__(self, model: keras_comet.MultiGateRecommender) -> None:
        super().__init__()
        self.model = model
        self.input_signature = dict(model.input_signature)

    def call(self, inputs: Any) -> dict[str, tf.Tensor]:
        """The routing weights of every task."""
        weights: dict[str, tf.Tensor] = {}
        with observe_gates(lambda gate, w: weights.setdefault(gate.task, w)):
            self.model(inputs, training=False)
        return weights


def serve_within(
    model: keras_comet.MultiGateRecommender, features: Any, k: int
) -> float:
    """Share of rows within k in an exported model, the least of all gates."""
    served = ServedRouting(model)
    served({name: values[:8] for name, values in features.items()})
    with tempfile.TemporaryDirectory() as directory:
        path = keras_comet.export_saved_model(served, f"{directory}/1")
        serve = tf.saved_model.load(path).signatures["serving_default"]
        inputs = {n: tf.constant(v) for n, v in features.items()}
        counts = [
            np.count_nonzero(w, axis=-1) for w in serve(**inputs).values()
        ]
    return float(min((count <= k).mean() for count in counts))


def train(
    data: datasets.MultitaskDataset,
    rows: datasets.Split,
    *,
    epochs: int,
    by_epoch: int | None = None,
    gate: str = "comet",
    num_experts: int = 16,
    k: int = 2,
    learning_rate: float = 5e-4,
    gamma: float | None = None,
    entropy_weight: float = 0.0,
    seed: int = 0,
) -> dict[str, Any]:
    """Trains once; returns losses, and routing statistics of each epoch."""
    keras.utils.set_random_seed(seed)
    options: dict[str, Any] = {"k": k, "entropy_weight": entropy_weight}
    if gamma is not None:
        options["gamma"] = gamma
    model = make_model(
        data, lambda n: GATES[gate](n, **options), num_experts, learning_rate
    )
    routing = []

    def look(epoch: int, logs: Any) -> None:
        weights = keras_comet.routing_weights(model, data.validation.features)
        statistics = keras_comet.routing_statistics(weights, k=k)
        routing.append(
            {
                name: [float(each[name]) for each in statistics.values()]
                for name in (
                    "within_k",
                    "cardinality",
                    "dead_experts",
                    "normalized_entropy",
                )
            }
        )

    callbacks = [keras.callbacks.LambdaCallback(on_epoch_end=look)]
    if by_epoch is not None:
        callbacks.append(keras_comet.CardinalityTarget(by_epoch=by_epoch))
    begin = time.perf_counter()
    history = model.fit(
        rows.batches(512, shuffle=True, seed=seed),
        epochs=epochs,
        validation_data=data.validation.batches(data.validation.num_rows),
        callbacks=callbacks,
        verbose=0,
    )
    seconds = time.perf_counter() - begin
    test = model.evaluate(
        data.test.batches(data.test.num_rows), verbose=0, return_dict=True
    )
    served = (
        math.nan
        if by_epoch is None
        else serve_within(model, data.validation.features, k)
    )
    keras.backend.clear_session()
    return {
        "served": served,
        "validation": history.history["val_loss"][-1],
        "test": test["loss"],
        "routing": routing,
        "seconds": seconds,
    }


def within_from(result: dict[str, Any], epoch: int) -> float:
    """Smallest share of rows within k, of all gates, from an epoch on."""
    return min(min(each["within_k"]) for each in result["routing"][epoch - 1 :])


def last(result: dict[str, Any], name: str) -> float:
    """A statistic after the last epoch, mean over gates."""
    return float(np.mean(result["routing"][-1][name]))


class Table:
    """A Markdown table that is printed and written row by row."""

    def __init__(self, path: pathlib.Path, columns: list[str]) -> None:
        self._file = path.open("w")
        self.add(columns)
        self.add(["---"] * len(columns))

    def add(self, cells: list[Any]) -> None:
        """Adds one row."""
        line = "| " + " | ".join(str(cell) for cell in cells) + " |"
        print(line, flush=True)
        print(line, file=self._file, flush=True)


def run_grid(args: argparse.Namespace) -> None:
    """Trains cells of the grid with and without a target."""
    data, rows = load_data(args.data, args.rows)
    cells = list(
        itertools.product(GATES, GAMMAS, LEARNING_RATES, NUM_EXPERTS, KS, SEEDS)
    )
    drawn = np.random.default_rng(0).permutation(len(cells))[: args.runs]
    table = Table(
        args.output_dir / f"grid_{args.data}.md",
        [
            "gate",
            "gamma",
            "rate",
            "n",
            "k",
            "seed",
            f"within k from epoch {args.by_epoch}",
            "exported",
            "without",
            "dead",
            "without",
            "entropy of usage",
            "without",
            "test loss",
            "without",
        ],
    )
    curves = []
    for index in drawn:
        gate, gamma, rate, n, k, seed = cells[index]
        cell = {
            "gate": gate,
            "gamma": gamma,
            "learning_rate": rate,
            "num_experts": n,
            "k": k,
            "seed": seed,
            "epochs": args.epochs,
        }
        pair = [
            train(data, rows, by_epoch=args.by_epoch, **cell),
            train(data, rows, entropy_weight=FIXED_ENTROPY_WEIGHT, **cell),
        ]
        curves.append((k, pair))
        table.add(
            [
                gate,
                "unset" if gamma is None else gamma,
                rate,
                n,
                k,
                seed,
                f"{within_from(pair[0], args.by_epoch):.2%}",
                f"{pair[0]['served']:.2%}",
                f"{within_from(pair[1], args.by_epoch):.2%}",
                *(f"{last(each, 'dead_experts'):.1f}" for each in pair),
                *(f"{last(each, 'normalized_entropy'):.2f}" for each in pair),
                *(f"{each['test']:.4f}" for each in pair),
            ]
        )
    figure, axes = plt.subplots(
        1, 2, figsize=(9, 3.5), layout="constrained", sharey=True
    )
    titles = ("with CardinalityTarget", "fixed entropy weight 0.01")
    for column, (axis, title) in enumerate(zip(axes, titles, strict=True)):
        for k, pair in curves:
            routing = pair[column]["routing"]
            axis.plot(
                range(1, len(routing) + 1),
                [np.mean(each["cardinality"]) / k for each in routing],
            )
        axis.axvline(args.by_epoch, color="black", linewidth=0.8)
        axis.axhline(1, color="black", linewidth=0.8)
        axis.set(title=title, xlabel="epoch", yscale="log")
    axes[0].set_ylabel("experts per row / k")
    figure.savefig(args.output_dir / f"grid_{args.data}.png", dpi=80)


def run_search(args: argparse.Namespace) -> None:
    """Compares a target, untuned, with the best of many fixed settings."""
    data, rows = load_data(args.data, args.rows)
    random = np.random.default_rng(0)
    table = Table(
        args.output_dir / f"search_{args.data}.md",
        [
            "run",
            "gamma",
            "entropy weight",
            "validation loss",
            "test loss",
            f"within k from epoch {args.by_epoch}",
            "cardinality",
            "dead",
            "seconds",
        ],
    )

    def add(name: str, gamma: Any, weight: Any, result: Any) -> None:
        table.add(
            [
                name,
                gamma,
                weight,
                f"{result['validation']:.4f}",
                f"{result['test']:.4f}",
                f"{within_from(result, args.by_epoch):.2%}",
                f"{last(result, 'cardinality'):.2f}",
                f"{last(result, 'dead_experts'):.1f}",
                f"{result['seconds']:.0f}",
            ]
        )

    steered = []
    for seed in range(args.seeds):
        result = train(
            data,
            rows,
            epochs=args.epochs,
            by_epoch=args.by_epoch,
            learning_rate=args.learning_rate,
            seed=seed,
        )
        steered.append(result)
        add(f"target, seed {seed}", "unset", "none", result)
    trials = []
    for trial in range(args.trials):
        gamma = float(10.0 ** random.uniform(-2, 1))
        weight = float(10.0 ** random.uniform(-4, -1))
        result = train(
            data,
            rows,
            epochs=args.epochs,
            learning_rate=args.learning_rate,
            gamma=gamma,
            entropy_weight=weight,
            seed=trial % args.seeds,
        )
        trials.append(result)
        add(f"trial {trial}", f"{gamma:.3g}", f"{weight:.2g}", result)
    losses = [each["test"] for each in steered]
    error = np.std(losses, ddof=1) / len(losses) ** 0.5 if losses[1:] else 0.0
    print(f"\ntarget: mean test loss {np.mean(losses):.4f} +- {error:.4f}")
    served = min(each["served"] for each in steered)
    print(f"within k in the exported models: {served:.2%}")
    kept = [t for t in trials if within_from(t, args.epochs) >= SHARE]
    for name, group in (("all", trials), ("those within k", kept)):
        if group:
            best = min(group, key=lambda each: each["validation"])
            print(
                f"best of {len(group)} trials ({name}): test loss "
                f"{best['test']:.4f}, {within_from(best, args.epochs):.2%} "
                "within k in the end"
            )
        else:
            print(f"no trial among {name}")


def run_curves(args: argparse.Namespace) -> None:
    """Plots cardinality over epochs, with and without a target."""
    data, rows = load_data(args.data, args.rows)
    figure, (cardinality, within) = plt.subplots(
        1, 2, figsize=(9, 3.4), layout="constrained"
    )
    table = Table(
        args.output_dir / f"curves_{args.data}.md",
        ["run", "validation loss", "test loss", "cardinality", "within k"],
    )
    for name, color, style, options in (
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
    ):
        result = train(data, rows, epochs=args.epochs, **options)
        epochs = range(1, args.epochs + 1)
        for axis, key in ((cardinality, "cardinality"), (within, "within_k")):
            values = [np.mean(each[key]) for each in result["routing"]]
            axis.plot(epochs, values, style, color=color, label=name)
        table.add(
            [
                name,
                f"{result['validation']:.4f}",
                f"{result['test']:.4f}",
                f"{last(result, 'cardinality'):.2f}",
                f"{last(result, 'within_k'):.2%}",
            ]
        )
    for axis in (cardinality, within):
        axis.axvline(args.by_epoch, color="black", linewidth=0.8)
    cardinality.axhline(2, color="black", linewidth=0.8)
    cardinality.set(xlabel="epoch", ylabel="experts per validation row")
    cardinality.legend(fontsize="small")
    within.set(xlabel="epoch", ylabel="share of validation rows within k = 2")
    figure.savefig(args.output_dir / "cardinality.png", dpi=80)


def run_overhead(args: argparse.Namespace) -> None:
    """Times epochs with and without a target, in turns; the paper's size.

    All experts are computed on both sides, whatever the gates say, so that
    the target's own cost shows and not what sparsity saves.
    """
    data, rows = load_data(args.data, args.rows)

    def make() -> keras_comet.MultiGateRecommender:
        return make_model(
            data, keras_comet.COMETGate, 16, 5e-5, units=256, dispatch="dense"
        )

    # The deadline is that of an ordinary training: not to be crossed here.
    target = keras_comet.CardinalityTarget(by_epoch=args.epochs + 2)
    sides = {"without": (make(), []), "with": (make(), [target])}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(args.epochs + 1):
        for name, (model, callbacks) in sides.items():
            begin = time.process_time()
            model.fit(
                rows.batches(512),
                initial_epoch=turn,
                epochs=turn + 1,
                verbose=0,
                callbacks=callbacks,
            )
            # The first one traces.
            if turn:
                seconds[name].append(time.process_time() - begin)
    medians = {name: np.median(values) for name, values in seconds.items()}
    ratios = np.array(seconds["with"]) / np.array(seconds["without"])
    print(f"CPU seconds an epoch: {medians}")
    print(f"ratio of medians {medians['with'] / medians['without']:.4f}")
    print(f"ratios by turn {np.round(np.sort(ratios), 3)}")


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
    parser.add_argument(
        "--data", choices=("movielens", "synthetic"), default="movielens"
    )
    parser.add_argument("--rows", type=int, default=70_000)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--by-epoch", type=int, default=3)
    parser.add_argument("--runs", type=int, default=24, help="of the grid")
    parser.add_argument("--trials", type=int, default=24, help="of the search")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--learning-rate", type=float, default=2e-3, help="of the search"
    )
    parser.add_argument("--smoke", action="store_true", help="a quick look")
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
    args.output_dir.mkdir(parents=True, exist_ok=True)
    PARTS[args.part](args)


if __name__ == "__main__":
    main()

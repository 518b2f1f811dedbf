"""A multi-task recommender with sparse gates, from data to served prediction.

Question: does a sparse gate, which computes 2 of 16 experts per example,
predict as well as one expert that costs the same, without a gate, and as all
16 do? Data: MovieLens-100k with the two tasks of the COMET paper (will this
user watch this film; which rating does it get). The model: embeddings of 128
for the user, the film and the films that the user watched before, age, gender,
occupation, genres and year of release; 16 experts that share a base, a gate and
a tower for each task. After five epochs, every row is capped at two experts.

    python examples/movielens_multigate.py
    python examples/movielens_multigate.py --gate top_k
    python examples/movielens_multigate.py --compare
    python examples/movielens_multigate.py --gate hash --local-search exchange
    python examples/movielens_multigate.py --smoke

Trains one expert, with the ids alone and with all features, and then the gate,
with progress bars, prints a table of test results, writes plots, TensorBoard
logs and a SavedModel to --output-dir, serves the SavedModel in a second process
and prints the ten best films for one user. A training takes two to four minutes
on two cores; --smoke a few seconds, on synthetic data and with three experts.
Where MovieLens cannot be had, the synthetic set is used instead. The model is
built in movielens_model.py.
"""

import argparse
import dataclasses
import os
import pathlib
import sys
import time
import warnings
from collections.abc import Sequence

# Before anything that imports TensorFlow.
import quiet_tensorflow  # noqa: F401

# isort: split
import keras
import matplotlib
import numpy as np

matplotlib.use("Agg")
from export_and_serve import export_and_serve
from matplotlib import pyplot as plt
from movielens_model import BATCH_SIZE
from movielens_model import NUM_EXPERTS
from movielens_model import K
from movielens_model import load_data
from movielens_model import make_model

import keras_comet
from keras_comet import datasets

GATES = ("comet", "dselect_k", "top_k", "hash", "softmax")

# The best of a grid, by validation loss, for one expert, COMET and Top-k
# alike: `python -m studies movielens --table`.
LEARNING_RATE = 2e-3

# How fast experts move away from the base that they share.
DEVIATION_SCALE = 0.03


# One expert that knows users and films by their ids alone.
IDS = ("user_id", "item_id")
ONE_BY_IDS = "one, ids alone"
BASELINES = ("one", ONE_BY_IDS)


def make_gate(
    name: str,
    args: argparse.Namespace,
    permutation: keras_comet.ExpertPermutation | None,
) -> keras_comet.Gate:
    """Makes one task's gate, which selects 2 experts at most (Hash: 1)."""
    shared = {"permutation": permutation}
    if name in BASELINES:
        return keras_comet.SoftmaxGate(1)
    if name == "comet":
        return keras_comet.COMETGate(args.num_experts, k=K, **shared)
    if name == "dselect_k":
        return keras_comet.DSelectKGate(args.num_experts, k=K, **shared)
    if name == "top_k":
        return keras_comet.TopKGate(args.num_experts, k=K, **shared)
    if name == "hash":
        return keras_comet.HashGate(args.num_experts, **shared)
    return keras_comet.SoftmaxGate(args.num_experts, **shared)


def make_experts(
    gate: str, args: argparse.Namespace
) -> keras_comet.StackedDenseExperts:
    """Makes 16 experts of which a row computes 2, or one twice as wide."""
    if gate in BASELINES:
        return keras_comet.StackedDenseExperts(1, K * 256, "relu", dropout=0.5)
    return keras_comet.StackedDenseExperts(
        args.num_experts,
        256,
        "relu",
        dropout=0.5,
        deviation_scale=DEVIATION_SCALE,
    )


def make_optimizer(
    gate: str, num_rows: int, args: argparse.Namespace
) -> keras.optimizers.Optimizer:
    """Makes Adam, which searches a permutation on the way if asked to."""
    optimizer = keras.optimizers.Adam(args.learning_rate)
    if args.local_search == "off" or gate in BASELINES:
        return optimizer
    return keras_comet.LocalSearchOptimizer(
        optimizer,
        args.search_epochs * -(-num_rows // BATCH_SIZE),
        method=args.local_search,
    )


def by_ids(data: datasets.MultitaskDataset) -> datasets.MultitaskDataset:
    """Leaves out all features but the ids of users and films."""
    splits = {
        name: datasets.Split(
            {feature: getattr(data, name).features[feature] for feature in IDS},
            getattr(data, name).labels,
        )
        for name in ("train", "validation", "test")
    }
    vocabularies = {feature: data.vocabularies[feature] for feature in IDS}
    return dataclasses.replace(data, vocabularies=vocabularies, **splits)


def train(
    gate: str, data: datasets.MultitaskDataset, args: argparse.Namespace
) -> dict[str, object]:
    """Trains one gate; returns the model and what was measured."""
    keras.utils.set_random_seed(args.seed)
    searches = args.local_search != "off" and gate not in BASELINES
    # One permutation for the gates of all tasks.
    permutation = (
        keras_comet.ExpertPermutation(args.num_experts) if searches else None
    )
    model = make_model(
        data,
        lambda: make_gate(gate, args, permutation),
        make_experts(gate, args),
        make_optimizer(gate, data.train.num_rows, args),
    )
    directory = args.output_dir / gate.replace(", ", "_").replace(" ", "_")
    probe = {
        name: values[:4096] for name, values in data.validation.features.items()
    }
    is_capped = gate in ("comet", "dselect_k")
    logger = keras_comet.GateSparsityLogger(directory / "logs", probe)
    early_stopping = keras.callbacks.EarlyStopping(
        "val_loss",
        patience=4,
        restore_best_weights=True,
        # Weights from before the cap holds are not to be restored.
        start_from_epoch=args.cardinality_by if is_capped else 0,
    )
    callbacks = [
        early_stopping,
        keras.callbacks.TensorBoard(directory / "logs"),
        logger,
    ]
    if is_capped:
        target = keras_comet.CardinalityTarget(by_epoch=args.cardinality_by)
        callbacks.append(target)
    if searches:
        search = keras_comet.LocalSearch(
            data.train.batches(2 * BATCH_SIZE), log_dir=directory / "logs"
        )
        callbacks.append(search)
    print(f"\n{gate}: training on {data.name}")
    begin = time.perf_counter()
    history = model.fit(
        data.train.batches(BATCH_SIZE, shuffle=True, seed=args.seed),
        epochs=args.epochs,
        validation_data=data.validation.batches(4096),
        callbacks=callbacks,
        verbose=args.verbose,
    )
    seconds = time.perf_counter() - begin
    if searches and args.local_search == "exchange":
        print_searches(search.reports)
    # One batch, so that the loss is the mean over all labelled rows.
    test = model.evaluate(
        data.test.batches(data.test.num_rows), verbose=0, return_dict=True
    )
    weights = keras_comet.routing_weights(model, data.test.features)
    return {
        "gate": gate,
        "model": model,
        "history": history.history,
        "routing": logger.history,
        "test": test,
        "weights": weights,
        "usage": keras_comet.routing_statistics(weights, k=K),
        "seconds": seconds,
    }


def print_searches(reports: dict[int, keras_comet.SearchReport]) -> None:
    """What the searches by exchanges did to the loss of their batches."""
    print("\n| update | loss before | loss after | moves | tried | seconds |")
    print("|" + "---|" * 6)
    for update, report in reports.items():
        print(
            f"| {update} | {report.loss_before:.4f} | {report.loss_after:.4f} "
            f"| {report.moves} | {report.evaluations} "
            f"| {report.seconds:.2f} |"
        )


def print_table(results: list[dict[str, object]]) -> None:
    """One row a model. Cardinality and share within k: mean over tasks."""
    columns = [
        "gate",
        "test loss",
        "AUC",
        "RMSE",
        "cardinality",
        f"within {K}",
        "epochs",
        "seconds",
    ]
    print("\n| " + " | ".join(columns) + " |")
    print("|" + "---|" * len(columns))
    for result in results:
        test = result["test"]
        usage = list(result["usage"].values())
        cells = [
            result["gate"],
            f"{test['loss']:.4f}",
            f"{next(v for n, v in test.items() if n.endswith('_auc')):.4f}",
            f"{next(v for n, v in test.items() if n.endswith('_rmse')):.4f}",
            f"{np.mean([float(each['cardinality']) for each in usage]):.2f}",
            f"{np.mean([float(each['within_k']) for each in usage]):.1%}",
            f"{len(result['history']['loss'])}",
            f"{result['seconds']:.0f}",
        ]
        print("| " + " | ".join(cells) + " |")


def plot(
    results: list[dict[str, object]],
    directory: pathlib.Path,
) -> None:
    """Writes learning curves, cardinality over epochs and expert usage."""
    figure, (losses, cardinality) = plt.subplots(
        1, 2, figsize=(11, 4), layout="constrained"
    )
    for result in results:
        losses.plot(
            range(1, 1 + len(result["history"]["val_loss"])),
            result["history"]["val_loss"],
            label=result["gate"],
        )
        for task, style in zip(
            result["usage"], ("-", "--", ":", "-."), strict=False
        ):
            cardinality.plot(
                [
                    float(each[task]["cardinality"])
                    for each in result["routing"]
                ],
                style,
                label=f"{result['gate']}: {task}",
            )
    losses.set(xlabel="epoch", ylabel="validation loss")
    losses.legend()
    cardinality.axhline(K, color="black", linewidth=0.8)
    cardinality.set(xlabel="epoch", ylabel="experts per row (mean)")
    cardinality.legend(fontsize="small")
    figure.savefig(directory / "learning_curves.png", dpi=120)
    plt.close(figure)

    figure, axes = plt.subplots(
        len(results),
        1,
        figsize=(8, 0.9 + 1.3 * len(results)),
        squeeze=False,
        layout="constrained",
    )
    for axis, result in zip(axes[:, 0], results, strict=True):
        weights = result["weights"]
        shares = [each.mean(axis=0) for each in weights.values()]
        picture = axis.imshow(shares, cmap="viridis", aspect="auto", vmin=0.0)
        axis.set_title(f"{result['gate']}: share of routing weight")
        axis.set_yticks(range(len(weights)), list(weights))
        axis.set_xticks(range(shares[0].size))
        figure.colorbar(picture, ax=axis)
    axes[-1, 0].set_xlabel("expert")
    figure.savefig(directory / "expert_usage.png", dpi=120)
    plt.close(figure)
    print(f"Plots: {directory / 'learning_curves.png'}, expert_usage.png")


def as_of_the_end(
    rows: datasets.Split, user: int, items: np.ndarray
) -> dict[str, np.ndarray]:
    """Inputs for films: a user after the last row, beside films of others."""
    features = rows.features
    film_rows = {int(item): n for n, item in enumerate(features["item_id"])}
    of_items = [film_rows[int(item)] for item in items]
    own = np.flatnonzero(features["user_id"] == user)
    # The longest history is the latest one, or as long as it gets.
    length = np.count_nonzero(features["history"][own], axis=1)
    of_user = own[length.argmax()]
    return {
        name: values[of_items]
        if name in ("item_id", "genres", "release_year")
        else np.repeat(values[of_user : of_user + 1], len(items), axis=0)
        for name, values in features.items()
    }


def recommend(
    model: keras_comet.MultiGateRecommender,
    data: datasets.MultitaskDataset,
    directory: pathlib.Path,
) -> None:
    """Prints the ten films that a user, served, will most likely watch."""
    user = data.vocabularies["user_id"][0]
    seen = {
        int(item)
        for split in (data.train, data.validation)
        for item in split.features["item_id"][
            (split.features["user_id"] == user) & (split.labels["watch"] == 1)
        ]
    }
    items = np.array(
        [
            item
            for item in np.unique(data.train.features["item_id"])
            if int(item) not in seen
        ]
    )
    served = export_and_serve(
        model, as_of_the_end(data.train, user, items), directory, "saved_model"
    )
    print(f"The ten best films for user {user} that training did not show:")
    titles = data.descriptions["item_id"]
    print_best(data, served, [titles[int(item)] for item in items])


def print_best(
    data: datasets.MultitaskDataset,
    served: dict[str, np.ndarray],
    names: Sequence[str],
) -> None:
    """Prints the ten rows with the highest scores of the first task."""
    first, *others = data.train.labels
    for row in np.argsort(-served[first][:, 0])[:10]:
        scores = [f"{first} {served[first][row, 0]:.3f}"]
        scores += [f"{task} {served[task][row, 0]:.2f}" for task in others]
        print("  ".join(["", *scores, names[row]]))


def say_where_to_look(directory: pathlib.Path) -> None:
    """Prints what was written, and how to look at it."""
    tensorboard = pathlib.Path(sys.executable).with_name("tensorboard")
    print(f"\nWhere to look, in {directory}:")
    print("  learning_curves.png, expert_usage.png")
    print("  saved_model, for TensorFlow Serving")
    print("  what the gates did, epoch by epoch, in TensorBoard:")
    print(f"    {os.path.relpath(tensorboard)} --logdir {directory}")


def main() -> None:
    """Reads the arguments and runs everything."""
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--gate", choices=GATES, default="comet")
    parser.add_argument(
        "--compare", action="store_true", help="train every gate"
    )
    parser.add_argument("--smoke", action="store_true", help="a quick look")
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--num-experts", type=int, default=NUM_EXPERTS)
    parser.add_argument("--learning-rate", type=float, default=LEARNING_RATE)
    parser.add_argument(
        "--local-search",
        choices=("off", "exchange", "sinkhorn"),
        default="off",
        help="how to search the permutation of the experts",
    )
    parser.add_argument(
        "--search-epochs", type=int, default=5, help="how long to search"
    )
    parser.add_argument(
        "--cardinality-by",
        type=int,
        default=5,
        metavar="EPOCH",
        help="after how many epochs COMET and DSelect-k keep to 2 experts on "
        "every row",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--verbose", type=int, default=1, choices=(0, 1, 2))
    parser.add_argument(
        "--output-dir",
        type=pathlib.Path,
        default=pathlib.Path("runs/movielens_multigate"),
    )
    args = parser.parse_args()
    # Keras warns that the data set, and not fit(), shuffles; so it does.
    warnings.filterwarnings("ignore", message=".*shuffle=True.*")
    if args.smoke:
        args.epochs, args.num_experts, args.cardinality_by = 2, 3, 1
    args.output_dir.mkdir(parents=True, exist_ok=True)

    data = load_data(
        args.smoke, fall_back=True, smoke_tasks=2, side_features=True
    )
    gates = GATES if args.compare else (args.gate,)
    results = []
    if data.name == "movielens_100k":
        results.append(train(ONE_BY_IDS, by_ids(data), args))
    results += [train(gate, data, args) for gate in ("one", *gates)]
    print_table(results)
    plot(results, args.output_dir)
    model = results[-len(gates)]["model"]
    if "item_id" in data.descriptions:
        recommend(model, data, args.output_dir)
    else:
        served = export_and_serve(
            model, data.test.features, args.output_dir, "saved_model"
        )
        print("The ten best rows of the test set:")
        numbers = range(data.test.num_rows)
        print_best(data, served, [f"row {number}" for number in numbers])
    say_where_to_look(args.output_dir)


if __name__ == "__main__":
    main()

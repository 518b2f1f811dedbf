"""A multi-task recommender with sparse gates, from data to served prediction.

Question: does a sparse gate, which computes 2 of 16 experts per example,
predict as well as a dense one? Data: MovieLens-100k with the two tasks of the
COMET paper (will this user watch this film; which rating does it get). The
model: embeddings of 128, 16 experts, a gate and a tower for each task.

    python examples/movielens_multigate.py --gate comet
    python examples/movielens_multigate.py --compare
    python examples/movielens_multigate.py --gate hash --local-search exchange
    python examples/movielens_multigate.py --cardinality-by 5
    python examples/movielens_multigate.py --smoke

Trains with progress bars, prints a table of test results, writes plots,
TensorBoard logs and a SavedModel to --output-dir, serves the SavedModel in a
second process and prints the ten best films for one user. One gate takes
about two minutes on two cores; --smoke less than one, on synthetic data.
Where no source of MovieLens answers, the synthetic set is used instead.
"""

import argparse
import os
import pathlib
import shutil
import subprocess
import sys
import time
import warnings

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import matplotlib
import numpy as np

matplotlib.use("Agg")
from matplotlib import pyplot as plt

import keras_comet
from keras_comet import datasets

NUM_EXPERTS = 16
K = 2
BATCH = 512
GATES = ("comet", "dselect_k", "top_k", "hash", "softmax")


def load_data(smoke: bool) -> datasets.MultitaskDataset:
    """Returns MovieLens-100k, or the synthetic set where it cannot be had."""
    if not smoke:
        try:
            return datasets.movielens_100k()
        except OSError as error:
            print(f"{error}\nGoing on with the synthetic data set.")
    return datasets.synthetic_multitask(num_rows=4096)


def make_tasks(data: datasets.MultitaskDataset) -> list[keras_comet.Task]:
    """A binary first task, weight 0.9, and regression on what is labelled."""
    binary, *others = data.train.labels
    movielens = binary == "watch"
    return [
        keras_comet.Task(
            binary,
            loss="binary_crossentropy",
            metrics=[keras.metrics.AUC(name="auc")],
            weight=0.9,
            activation="sigmoid",
        ),
        *(
            keras_comet.Task(
                name,
                loss="mse",
                metrics=[keras.metrics.RootMeanSquaredError(name="rmse")],
                weight=0.1 / len(others),
                missing_label=0.0 if movielens else float("nan"),
            )
            for name in others
        ),
    ]


def make_features(data: datasets.MultitaskDataset) -> dict[str, object]:
    """An embedding for each categorical feature; numbers as they are."""
    features: dict[str, object] = {}
    for name, values in data.train.features.items():
        if name in data.vocabularies:
            features[name] = keras_comet.CategoricalFeature(
                data.vocabularies[name], embedding_dim=128
            )
        else:
            features[name] = keras_comet.NumericFeature(
                values.mean(axis=0), values.var(axis=0)
            )
    return features


def make_gate(
    name: str,
    args: argparse.Namespace,
    permutation: keras_comet.ExpertPermutation | None,
) -> keras_comet.Gate:
    """One task's gate. All choose among 16 experts, at most 2 (Hash: 1)."""
    # A cardinality target needs no entropy to settle the selectors.
    entropy_weight = 0.0 if args.cardinality_by else args.entropy_weight
    if name == "comet":
        return keras_comet.COMETGate(
            NUM_EXPERTS,
            k=K,
            gamma=args.gamma,
            entropy_weight=entropy_weight,
            permutation=permutation,
        )
    if name == "dselect_k":
        return keras_comet.DSelectKGate(
            NUM_EXPERTS,
            k=K,
            gamma=args.gamma,
            entropy_weight=entropy_weight,
            permutation=permutation,
        )
    if name == "top_k":
        return keras_comet.TopKGate(NUM_EXPERTS, k=K, permutation=permutation)
    if name == "hash":
        return keras_comet.HashGate(NUM_EXPERTS, permutation=permutation)
    return keras_comet.SoftmaxGate(NUM_EXPERTS, permutation=permutation)


def make_model(
    gate: str, data: datasets.MultitaskDataset, args: argparse.Namespace
) -> keras_comet.MultiGateRecommender:
    """The model of the paper: experts Dense(256), relu, Dropout(0.5)."""
    tasks = make_tasks(data)
    optimizer = keras.optimizers.Adam(args.learning_rate)
    permutation = None
    if args.local_search != "off":
        # One for the gates of all tasks.
        permutation = keras_comet.ExpertPermutation(NUM_EXPERTS)
        optimizer = keras_comet.LocalSearchOptimizer(
            optimizer,
            args.search_epochs * -(-data.train.num_rows // BATCH),
            method=args.local_search,
        )
    model = keras_comet.MultiGateRecommender(
        features=make_features(data),
        experts=[
            keras.Sequential(
                [
                    keras.layers.Dense(256, activation="relu"),
                    keras.layers.Dropout(0.5),
                ]
            )
            for _ in range(NUM_EXPERTS)
        ],
        gates={task.name: make_gate(gate, args, permutation) for task in tasks},
        tasks=tasks,
        tower_units=[256],
    )
    model.compile(optimizer)
    return model


def train(
    gate: str, data: datasets.MultitaskDataset, args: argparse.Namespace
) -> dict[str, object]:
    """Trains one gate; returns the model and what was measured."""
    keras.utils.set_random_seed(args.seed)
    model = make_model(gate, data, args)
    directory = args.output_dir / gate
    probe = {
        name: values[:4096] for name, values in data.validation.features.items()
    }
    steers = args.cardinality_by and gate in ("comet", "dselect_k")
    target = (
        keras_comet.CardinalityTarget(by_epoch=args.cardinality_by)
        if steers
        else None
    )
    logger = keras_comet.GateSparsityLogger(directory / "logs", probe)
    early_stopping = keras.callbacks.EarlyStopping(
        "val_loss",
        patience=4,
        restore_best_weights=True,
        # Weights from before the cap holds are not to be restored.
        start_from_epoch=args.cardinality_by - 1 if steers else 0,
    )
    callbacks = [
        *([target] if target else []),
        early_stopping,
        keras.callbacks.TensorBoard(directory / "logs"),
        logger,
    ]
    if args.local_search != "off":
        search = keras_comet.LocalSearch(
            data.train.batches(2 * BATCH), log_dir=directory / "logs"
        )
        callbacks.append(search)
    print(f"\n{gate}: training on {data.name}")
    begin = time.perf_counter()
    history = model.fit(
        data.train.batches(BATCH, shuffle=True, seed=args.seed),
        epochs=args.epochs,
        validation_data=data.validation.batches(4096),
        callbacks=callbacks,
        verbose=args.verbose,
    )
    seconds = time.perf_counter() - begin
    if args.local_search == "exchange":
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
    """One row a gate. Cardinality and share within k: mean over tasks."""
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
        axis.set_xticks(range(NUM_EXPERTS))
        figure.colorbar(picture, ax=axis)
    axes[-1, 0].set_xlabel("expert")
    figure.savefig(directory / "expert_usage.png", dpi=120)
    plt.close(figure)
    print(f"Plots: {directory / 'learning_curves.png'}, expert_usage.png")


def serve(
    model: keras_comet.MultiGateRecommender,
    inputs: dict[str, np.ndarray],
    directory: pathlib.Path,
) -> dict[str, np.ndarray]:
    """Exports, and predicts in a process that cannot import the package."""
    path = directory / "saved_model"
    # The one thing replaced by a second run; it was made by the first.
    shutil.rmtree(path, ignore_errors=True)
    keras_comet.export_saved_model(model, path)
    np.savez(directory / "inputs.npz", **inputs)
    script = pathlib.Path(__file__).with_name("serve.py")
    subprocess.run(
        [
            sys.executable,
            str(script.resolve()),
            str(path.resolve()),
            str((directory / "inputs.npz").resolve()),
            str((directory / "outputs.npz").resolve()),
        ],
        check=True,
        cwd=directory,
    )
    served = dict(np.load(directory / "outputs.npz"))
    expected = model.predict(inputs, verbose=0)
    worst = max(np.abs(served[name] - expected[name]).max() for name in served)
    print(f"\nSavedModel: {path}, largest difference to Keras {worst:.1e}")
    return served


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
        [i for i in data.vocabularies["item_id"] if int(i) not in seen]
    )
    served = serve(
        model,
        {"user_id": np.full_like(items, user), "item_id": items},
        directory,
    )
    print(f"The ten best films for user {user} that training did not show:")
    for row in np.argsort(-served["watch"][:, 0])[:10]:
        title = data.descriptions["item_id"][int(items[row])]
        print(
            f"  watch {served['watch'][row, 0]:.3f}  "
            f"rating {served['rating'][row, 0]:.2f}  {title}"
        )


def main() -> None:
    """Reads the arguments and runs everything."""
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--gate", choices=GATES, default="comet")
    parser.add_argument("--compare", action="store_true", help="train all")
    parser.add_argument("--smoke", action="store_true", help="a quick look")
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--learning-rate", type=float, default=5e-4)
    parser.add_argument("--gamma", type=float, default=1.0)
    parser.add_argument("--entropy-weight", type=float, default=0.01)
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
        default=0,
        metavar="EPOCH",
        help="after how many epochs COMET and DSelect-k keep to 2 experts on "
        "every row, instead of by --entropy-weight; 0: never",
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
        args.epochs = min(args.epochs, 2)
    args.output_dir.mkdir(parents=True, exist_ok=True)

    data = load_data(args.smoke)
    gates = GATES if args.compare else (args.gate,)
    results = [train(gate, data, args) for gate in gates]
    print_table(results)
    plot(results, args.output_dir)
    model = results[0]["model"]
    if "item_id" in data.descriptions:
        recommend(model, data, args.output_dir)
    else:
        batch = {n: v[:8] for n, v in data.test.features.items()}
        serve(model, batch, args.output_dir)


if __name__ == "__main__":
    main()

"""Experts that pay: two kinds of images, and who looks at which.

Question: is it worth choosing 2 of 8 experts for each image, when nobody says
which of two domains it is from? Data: MNIST and Fashion-MNIST mixed, under ten
common labels. The model: eight small convolutional networks, a gate that reads
the pixels, one linear layer; beside it one network that costs as much at
inference, without a gate.

    python examples/image_domains.py
    python examples/image_domains.py --rows 108000 --gate top_k
    python examples/image_domains.py --smoke

Trains both with progress bars, prints a table of test results, what the gate
is worth (`routing_ablation`) and how alike the experts are
(`expert_similarity`), and writes a picture of the experts that each class of
each domain uses. About ten minutes on two cores; --smoke takes seconds, on
drawn strokes. `make images` fetches the images where TensorFlow's own copies
cannot be had.
"""

import argparse
import pathlib
import time

# Before anything that imports TensorFlow.
import quiet_tensorflow  # noqa: F401

# isort: split
import keras
import matplotlib
import numpy as np

matplotlib.use("Agg")
from matplotlib import pyplot as plt

import keras_comet
from keras_comet import datasets

NUM_EXPERTS = 8
K = 2
NUM_CLASSES = 10

# Experts 1.5 times as wide cost as much as two of the others.
NARROW, WIDE = (10, 20, 50), (15, 30, 75)


def load_data(num_rows: int, smoke: bool) -> datasets.MultitaskDataset:
    """Loads images as float32 from 0 to 1, and names the domains."""
    if smoke:
        return datasets.synthetic_strokes(1000)
    data = datasets.image_domains()
    for split, rows in (
        (data.train, num_rows),
        (data.validation, None),
        (data.test, None),
    ):
        # Rows come in random order.
        for columns in (split.features, split.labels):
            for name in columns:
                columns[name] = columns[name][:rows]
        images = split.features["image"]
        split.features["image"] = images.astype(np.float32) / 255.0
    return data


def make_expert(widths: tuple[int, int, int]) -> keras.layers.Layer:
    """Makes one convolutional network."""
    first, second, units = widths
    return keras.Sequential(
        [
            keras.layers.Conv2D(first, 5, padding="same", activation="relu"),
            keras.layers.MaxPooling2D(),
            keras.layers.Conv2D(second, 5, padding="same", activation="relu"),
            keras.layers.MaxPooling2D(),
            keras.layers.Flatten(),
            keras.layers.Dense(units, activation="relu"),
        ]
    )


def make_model(
    gate: str, image_shape: tuple[int, ...], args: argparse.Namespace
) -> keras.Model:
    """Makes a mixture with this gate, or one expert, compiled."""
    inputs = keras.Input(image_shape, name="image")
    channels = inputs
    if len(image_shape) == 2:
        channels = keras.layers.Reshape((*image_shape, 1))(inputs)
    if gate == "one":
        hidden = make_expert(WIDE)(channels)
    else:
        chosen = {
            "comet": keras_comet.COMETGate,
            "top_k": keras_comet.TopKGate,
        }[gate](args.num_experts, k=K, name="gate")
        experts = [make_expert(NARROW) for _ in range(args.num_experts)]
        pixels = keras.layers.Flatten()(channels)
        hidden = keras_comet.MixtureOfExperts(experts, chosen)(
            (channels, pixels)
        )
    outputs = keras.layers.Dense(NUM_CLASSES, "softmax")(hidden)
    model = keras.Model(inputs, outputs)
    model.compile(
        keras.optimizers.Adam(args.learning_rate),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    return model


def train(
    gate: str, data: datasets.MultitaskDataset, args: argparse.Namespace
) -> dict[str, object]:
    """Trains one model; returns it, and what was measured."""
    keras.utils.set_random_seed(args.seed)
    images, labels = to_arrays(data.train)
    model = make_model(gate, images.shape[1:], args)
    is_capped = gate == "comet"
    early_stopping = keras.callbacks.EarlyStopping(
        "val_loss",
        patience=5,
        restore_best_weights=True,
        start_from_epoch=args.cardinality_by if is_capped else 0,
    )
    callbacks = [early_stopping]
    if is_capped:
        callbacks.append(
            keras_comet.CardinalityTarget(by_epoch=args.cardinality_by)
        )
    print(f"\n{gate}: training on {data.name}")
    begin = time.perf_counter()
    history = model.fit(
        images,
        labels,
        batch_size=256,
        epochs=args.epochs,
        validation_data=to_arrays(data.validation),
        callbacks=callbacks,
        verbose=args.verbose,
    )
    seconds = time.perf_counter() - begin
    test = model.evaluate(*to_arrays(data.test), verbose=0, return_dict=True)
    return {
        "model": model,
        "test": test,
        "epochs": len(history.history["loss"]),
        "seconds": seconds,
    }


def to_arrays(split: datasets.Split) -> tuple[np.ndarray, np.ndarray]:
    """Returns the images and labels, and not the domains."""
    [labels] = split.labels.values()
    return split.features["image"], labels


def route(model: keras.Model, images: np.ndarray) -> np.ndarray:
    """Returns the routing weights of all images."""
    return np.concatenate(
        [
            keras_comet.routing_weights(model, part)["gate"]
            for part in np.array_split(images, -(-len(images) // 2048))
        ]
    )


def print_table(results: dict[str, dict[str, object]]) -> None:
    """Prints a row for each model."""
    print("\n| model | test loss | accuracy | experts | epochs | seconds |")
    print("|" + "---|" * 6)
    for name, each in results.items():
        weights = each.get("weights")
        experts = 1.0
        if weights is not None:
            experts = np.count_nonzero(weights, axis=1).mean()
        print(
            f"| {name} | {each['test']['loss']:.4f} "
            f"| {each['test']['accuracy']:.4f} | {experts:.2f} "
            f"| {each['epochs']} | {each['seconds']:.0f} |"
        )


def plot_experts(
    weights: np.ndarray, split: datasets.Split, path: pathlib.Path
) -> None:
    """Draws which experts each class of each domain uses, and examples."""
    domain = split.features["domain"]
    images, labels = to_arrays(split)
    kinds = sorted(set(zip(domain.tolist(), labels.tolist(), strict=True)))
    members = [(domain == d) & (labels == c) for d, c in kinds]
    figure, (pictures, usage) = plt.subplots(
        1,
        2,
        figsize=(5.5, 0.3 * len(kinds) + 1),
        width_ratios=(1, 8),
        layout="constrained",
    )
    column = [images[np.flatnonzero(rows)[0]].squeeze() for rows in members]
    pictures.imshow(np.concatenate(column), cmap="gray", aspect="auto")
    pictures.axis("off")
    shown = usage.imshow(
        [weights[rows].mean(axis=0) for rows in members],
        aspect="auto",
        vmin=0.0,
    )
    usage.set_yticks(range(len(kinds)), [f"{d}: {c}" for d, c in kinds])
    usage.set(xlabel="expert", ylabel="domain: class")
    figure.colorbar(shown, ax=usage, label="share of routing weight")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main() -> None:
    """Reads the arguments and runs everything."""
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--gate", choices=("comet", "top_k"), default="comet")
    parser.add_argument("--rows", type=int, default=30_000, help="of training")
    parser.add_argument("--num-experts", type=int, default=NUM_EXPERTS)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument(
        "--learning-rate",
        type=float,
        default=1e-3,
        help="`python -m studies images` finds the best of each model",
    )
    parser.add_argument(
        "--cardinality-by",
        type=int,
        default=5,
        metavar="EPOCH",
        help="after how many epochs COMET keeps to 2 experts on every row",
    )
    parser.add_argument("--smoke", action="store_true", help="a quick look")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--verbose", type=int, default=1, choices=(0, 1, 2))
    parser.add_argument(
        "--output-dir",
        type=pathlib.Path,
        default=pathlib.Path("runs/image_domains"),
    )
    args = parser.parse_args()
    if args.smoke:
        args.epochs, args.num_experts, args.cardinality_by = 2, 3, 1
    args.output_dir.mkdir(parents=True, exist_ok=True)

    data = load_data(args.rows, args.smoke)
    results = {name: train(name, data, args) for name in ("one", args.gate)}
    model = results[args.gate]["model"]
    images, labels = to_arrays(data.test)
    results[args.gate]["weights"] = route(model, images)
    print_table(results)
    print("\nWhat the gate is worth, on the first 2,000 test rows:\n")
    probe = images[:2000], labels[:2000]
    print(
        keras_comet.routing_ablation(
            model, probe, batch_size=len(probe[0]) // 10
        )
    )
    [similarity] = keras_comet.expert_similarity(model, images[:256]).values()
    print(f"\nHow alike the experts are: {similarity.verdict}.")
    picture = args.output_dir / "experts_by_class.png"
    plot_experts(results[args.gate]["weights"], data.test, picture)
    print(f"\nWhere to look: {picture}")
    print("  docs/guides/do_experts_pay.md, what to make of the numbers")


if __name__ == "__main__":
    main()

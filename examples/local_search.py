"""Local search rescues a bad start: which expert sits where.

Question: if the outputs of a gate lead to the wrong experts, can a search over
permutations put that right, where gradient descent cannot? Two answers:

1. Planted experts: a gate over 16 fixed experts, relabelled by a hidden
   permutation. Verified exchanges find it exactly; Sinkhorn trains its way to
   it. The curve of the loss shows how.
2. MovieLens-100k, Hash and Top-k: a trained recommender whose gates are
   relabelled at random, so that every row goes to experts that do not know
   it, and a search on training rows that finds the way back.

    python examples/local_search.py
    python examples/local_search.py --smoke

Takes about three minutes on two cores; --smoke a few seconds, on synthetic
data. Where MovieLens cannot be had, the synthetic set is used instead.
Expect: exact recovery in part 1; in part 2 nearly all of the loss back, as
experts that nobody uses may sit anywhere.
"""

import argparse
import pathlib
import warnings
from collections.abc import Callable

# Before anything that imports TensorFlow.
import quiet_tensorflow  # noqa: F401

# isort: split
import keras
import matplotlib
import numpy as np
import tensorflow as tf

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from movielens_model import NUM_EXPERTS
from movielens_model import load_data
from movielens_model import make_model

import keras_comet
from keras_comet import datasets


def make_planted(
    num_experts: int, seed: int
) -> tuple[keras_comet.ExpertPermutation, Callable[[], tf.Tensor]]:
    """Makes a Top-k gate over fixed experts, relabelled at random.

    Returns:
        The permutation, at a bad start, and the loss that this start costs,
        as a function.
    """
    rng = np.random.default_rng(seed)
    permutation = keras_comet.ExpertPermutation(num_experts)
    mixture = keras_comet.MixtureOfExperts(
        [keras.layers.Dense(12, "relu") for _ in range(num_experts)],
        keras_comet.TopKGate(
            num_experts,
            k=2,
            permutation=permutation,
            kernel_initializer=keras.initializers.RandomNormal(1.0, seed=seed),
        ),
    )
    rows = tf.constant(rng.normal(size=(1024, 24)), tf.float32)
    head = tf.constant(rng.normal(size=(12, 1)), tf.float32)

    def predict() -> tf.Tensor:
        return tf.tanh(mixture(rows) @ head)

    permutation.assignment.assign(rng.permutation(num_experts)[np.newaxis])
    targets = predict()
    permutation.assignment.assign(np.arange(num_experts)[np.newaxis])

    # A search calls it for every candidate.
    @tf.function(autograph=False)
    def loss_fn() -> tf.Tensor:
        return tf.reduce_mean(tf.square(predict() - targets))

    return permutation, loss_fn


def search_planted(num_experts: int, seed: int, steps: int) -> list[float]:
    """Recovers the planted permutation by both methods.

    Returns:
        The loss over the steps of the search by Sinkhorn.
    """
    permutation, loss_fn = make_planted(num_experts, seed)
    optimizer = keras_comet.LocalSearchOptimizer("adam", search_steps=1)
    report = optimizer.search(loss_fn, [permutation])
    print(
        f"exchange: loss {report.loss_before:.4f} -> {report.loss_after:.2e}, "
        f"{report.moves} moves, {report.evaluations} evaluations, "
        f"is_local_optimum: {report.is_local_optimum}, {report.seconds:.1f} s"
    )

    permutation, loss_fn = make_planted(num_experts, seed)
    before = float(loss_fn())
    optimizer = keras_comet.LocalSearchOptimizer(
        "adam", search_steps=steps, method="sinkhorn"
    )
    weights = permutation.permutation_weights
    optimizer.build([weights])

    @tf.function(autograph=False)
    def train_step() -> tf.Tensor:
        with tf.GradientTape() as tape:
            loss = loss_fn()
        # Keras 3 keeps the tf.Variable in `value`.
        gradient = tape.gradient(loss, weights.value)
        optimizer.apply_gradients([(gradient, weights)])
        return loss

    curve = [float(train_step()) for _ in range(steps)]
    print(
        f"sinkhorn: loss {before:.4f} -> {float(loss_fn()):.2e}, {steps} steps"
    )
    return curve


def make_recommender(
    gate: str,
    data: datasets.MultitaskDataset,
    permutation: keras_comet.ExpertPermutation,
) -> keras_comet.MultiGateRecommender:
    """Makes a small recommender whose gates share one permutation."""
    num_experts = permutation.num_experts

    def make_gate() -> keras_comet.Gate:
        if gate == "hash":
            return keras_comet.HashGate(num_experts, permutation=permutation)
        return keras_comet.TopKGate(num_experts, k=2, permutation=permutation)

    return make_model(
        data,
        make_gate,
        [keras.layers.Dense(128, "relu") for _ in range(num_experts)],
        keras_comet.LocalSearchOptimizer(
            keras.optimizers.Adam(1e-3), search_steps=10**6
        ),
        embedding_dim=64,
        tower_units=64,
    )


def rescue(
    gate: str,
    data: datasets.MultitaskDataset,
    num_experts: int,
    epochs: int,
    seed: int,
) -> dict[str, float]:
    """Trains, relabels the gates at random, and searches the way back.

    Returns:
        The loss on test rows: trained, relabelled, searched.
    """
    print(f"{gate}: training for {epochs} epochs")
    keras.utils.set_random_seed(seed)
    permutation = keras_comet.ExpertPermutation(num_experts)
    model = make_recommender(gate, data, permutation)
    model.fit(
        data.train.batches(512, shuffle=True, seed=seed),
        epochs=epochs,
        verbose=0,
    )

    def test_loss() -> float:
        batches = data.test.batches(data.test.num_rows)
        return model.evaluate(batches, verbose=0, return_dict=True)["loss"]

    losses = {"trained": test_loss()}
    order = np.random.default_rng(seed).permutation(num_experts)
    permutation.assignment.assign(order[np.newaxis])
    losses["relabelled"] = test_loss()

    [batch] = data.train.batches(2048).take(1)
    features, labels, weights = model.apply_label_mask(batch)

    def search_loss() -> tf.Tensor:
        outputs = model(features, training=False)
        return model.compute_loss(features, labels, outputs, weights)

    report = model.optimizer.search(search_loss, [permutation])
    losses["searched"] = test_loss()
    print(
        f"{gate}: search loss {report.loss_before:.4f} -> "
        f"{report.loss_after:.4f}, {report.moves} moves, "
        f"{report.evaluations} evaluations, {report.seconds:.1f} s"
    )
    return losses


def plot(
    curve: list[float],
    losses: dict[str, dict[str, float]],
    path: pathlib.Path,
) -> None:
    """Draws the search by Sinkhorn, and the rescued recommenders."""
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(10, 4), layout="constrained"
    )
    left.semilogy(np.maximum(curve, 1e-9))
    left.set(title="Planted experts: Sinkhorn", xlabel="step", ylabel="loss")
    states = list(next(iter(losses.values())))
    for index, (gate, values) in enumerate(losses.items()):
        right.bar(
            np.arange(len(states)) + 0.35 * index,
            [values[state] for state in states],
            width=0.33,
            label=gate,
        )
    right.set_xticks(np.arange(len(states)) + 0.17, states)
    right.set(title="A recommender relabelled", ylabel="test loss")
    right.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main() -> None:
    """Reads the arguments and runs both parts."""
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--smoke", action="store_true", help="a quick look")
    parser.add_argument("--num-experts", type=int, default=NUM_EXPERTS)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--output-dir",
        type=pathlib.Path,
        default=pathlib.Path("runs/local_search"),
    )
    args = parser.parse_args()
    # Keras warns that the data set, and not fit(), shuffles; so it does.
    warnings.filterwarnings("ignore", message=".*shuffle=True.*")
    if args.smoke:
        args.num_experts, args.epochs, args.steps = 3, 1, 10
    args.output_dir.mkdir(parents=True, exist_ok=True)

    print("Planted experts")
    curve = search_planted(args.num_experts, args.seed, args.steps)
    data = load_data(args.smoke, fall_back=True)
    print(f"\nA recommender relabelled, {data.name}")
    losses = {
        gate: rescue(gate, data, args.num_experts, args.epochs, args.seed)
        for gate in ("hash", "top_k")
    }
    print("\n| gate | trained | relabelled | searched |\n|---|---|---|---|")
    for gate, values in losses.items():
        cells = " | ".join(f"{value:.4f}" for value in values.values())
        print(f"| {gate} | {cells} |")
    plot(curve, losses, args.output_dir / "local_search.png")
    print(f"\nWhere to look: {args.output_dir / 'local_search.png'}")
    print("  docs/guides/local_search.md, when a search helps and when not")


if __name__ == "__main__":
    main()

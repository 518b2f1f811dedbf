"""Draws the pictures of the guide to watching gates, beside it.

    python docs/draw_pictures.py

Two tasks share four experts. `switch` is one function of the features or
another, as the sign of one says; `chance` depends on no feature at all. So the
gate of the one should matter, and that of the other should not.
"""

import pathlib
import tempfile

import keras
import matplotlib
import numpy as np

import keras_comet

matplotlib.use("Agg")
from matplotlib import pyplot as plt

PICTURES = pathlib.Path(__file__).parent / "guides"
EPOCHS = 12
DEADLINE = 6


def main() -> None:
    """Trains for half a minute, and draws."""
    keras.utils.set_random_seed(1)
    x, labels = draw_rows(seed=0)
    test = draw_rows(seed=1)
    inputs = keras.Input((4,))
    mixtures = keras_comet.MultiGateMixtureOfExperts(
        keras_comet.StackedDenseExperts(4, [16, 8], "relu"),
        {task: keras_comet.COMETGate(4, k=1) for task in labels},
        name="mixture",
    )(inputs)
    model = keras.Model(
        inputs,
        {
            task: keras.layers.Dense(1, name=task)(mixtures[task])
            for task in labels
        },
    )
    model.compile(keras.optimizers.Adam(0.01), {task: "mse" for task in labels})
    logger = keras_comet.GateSparsityLogger(tempfile.mkdtemp(), test[0][:512])
    target = keras_comet.CardinalityTarget(by_epoch=DEADLINE)
    model.fit(
        x,
        labels,
        batch_size=64,
        epochs=EPOCHS,
        callbacks=[target, logger],
        verbose=0,
    )
    draw_routing(logger, keras_comet.routing_weights(model, test[0][:512]))
    report = keras_comet.routing_ablation(model, test)
    print(report)
    save(report.plot(), "routing_ablation.png")
    similarity = keras_comet.expert_similarity(model, test[0][:512])["mixture"]
    print(similarity.verdict)
    save(similarity.plot(), "expert_similarity.png")


def draw_rows(seed: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Makes features and the labels of both tasks."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(4096, 4)).astype("float32")
    return x, {
        "switch": np.where(x[:, :1] > 0, x[:, 1:2], -x[:, 1:2]),
        "chance": random.normal(size=(4096, 1)).astype("float32"),
    }


def draw_routing(
    logger: keras_comet.GateSparsityLogger, weights: dict[str, np.ndarray]
) -> None:
    """Draws experts a row over the epochs, and who uses which expert."""
    figure, (cardinality, usage) = plt.subplots(
        1, 2, figsize=(9, 3), layout="constrained"
    )
    for task in weights:
        values = [float(entry[task]["cardinality"]) for entry in logger.history]
        cardinality.plot(logger.steps, values, marker="o", label=task)
    cardinality.axvline(DEADLINE, color="black", linewidth=0.8)
    cardinality.set(
        xlabel="finished epochs", ylabel="cardinality", ylim=(0, 4.2)
    )
    cardinality.legend()
    shares = [each.mean(axis=0) for each in weights.values()]
    picture = usage.imshow(shares, vmin=0.0, aspect="auto")
    usage.set_yticks(range(len(weights)), list(weights))
    usage.set(xlabel="expert", xticks=range(4), title="share of routing weight")
    figure.colorbar(picture, ax=usage)
    save(figure, "routing.png")


def save(figure: plt.Figure, name: str) -> None:
    """Writes one picture."""
    figure.savefig(PICTURES / name, dpi=90)


if __name__ == "__main__":
    main()

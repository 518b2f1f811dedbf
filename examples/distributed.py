"""Does a training on several machines end as one on a single machine?

A recommender with two tasks, string ids and missing labels, whose experts are
also searched by exchanges, on synthetic data: by one process, or by several
that exchange their gradients (`tf.distribute.MultiWorkerMirroredStrategy`).
Every process is given the same batches and takes its own rows of each. In
about 20 s for each process, on a machine with two cores:

    python examples/distributed.py

    python examples/distributed.py --index=0 \
        --workers=127.0.0.1:23456,127.0.0.1:23457 &
    python examples/distributed.py --index=1 \
        --workers=127.0.0.1:23456,127.0.0.1:23457

On several machines, `--workers` lists their addresses, the same list on each,
and `--checkpoint-dir` names a directory that all of them see. Killed and
started again with the same arguments, all of them resume. `--output` writes
losses and weights to an .npz file, to compare.

Expected: in all three processes the same losses, to five digits, and the same
checksum of the weights in the two that trained together.
"""

import argparse
import hashlib
import json
import os
from typing import Any

# Before anything that imports TensorFlow.
import quiet_tensorflow  # noqa: F401

# isort: split
import numpy as np
import tensorflow as tf

import keras_comet
from keras_comet import CategoricalFeature
from keras_comet import NumericFeature
from keras_comet import Task

USERS = [f"user {index}" for index in range(20)]


def main() -> None:
    """Trains, and prints what there is to compare."""
    arguments = parse_arguments()
    # Before anything else of TensorFlow, as it starts the connections.
    strategy = make_strategy(arguments.workers, arguments.index)
    with strategy.scope():
        model = make_model(arguments.search_steps)
    batches = make_data(arguments.num_batches)
    print(f"training on {strategy.num_replicas_in_sync} replicas")
    trainer = keras_comet.Trainer(
        model,
        search_data=batches,
        search_interval=4,
        max_evaluations=6,
        checkpoint_dir=arguments.checkpoint_dir,
    )
    history = trainer.fit(batches, epochs=arguments.epochs, verbose=0)
    weights = model.get_weights()
    for epoch, loss in enumerate(history.history["loss"], 1):
        print(f"epoch {epoch}: loss {loss:.5f}")
    for step, report in sorted(trainer.reports.items()):
        print(
            f"search after {step} updates: {report.loss_before:.5f} -> "
            f"{report.loss_after:.5f}"
        )
    print(f"weights: {checksum(weights)}")
    print("\nWhere to look: docs/guides/several_devices.md")
    if arguments.checkpoint_dir is not None:
        print(f"  {arguments.checkpoint_dir}, to resume from")
    if arguments.output is not None:
        print(f"  {arguments.output}, losses and weights to compare")
        np.savez(
            arguments.output,
            *weights,
            losses=history.history["loss"],
            searches=[each.loss_after for each in trainer.reports.values()],
        )


def parse_arguments() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--workers", help="host:port of all, by commas")
    parser.add_argument("--index", type=int, default=0, help="of this one")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--num-batches", type=int, default=8)
    parser.add_argument("--search-steps", type=int, default=16)
    parser.add_argument("--checkpoint-dir")
    parser.add_argument("--output", help="an .npz file")
    return parser.parse_args()


def make_strategy(workers: str | None, index: int) -> tf.distribute.Strategy:
    """Joins the other processes, if there are any.

    A scheduler of jobs, such as that of Vertex AI, sets `TF_CONFIG` itself.
    """
    if workers is None:
        return tf.distribute.get_strategy()
    os.environ["TF_CONFIG"] = json.dumps(
        {
            "cluster": {"worker": workers.split(",")},
            "task": {"type": "worker", "index": index},
        }
    )
    return tf.distribute.MultiWorkerMirroredStrategy()


def make_model(search_steps: int) -> keras_comet.MultiGateRecommender:
    """Makes the same model in every process."""
    keras = tf.keras
    keras.utils.set_random_seed(1)
    permutation = keras_comet.ExpertPermutation(4)
    model = keras_comet.MultiGateRecommender(
        features={
            "user": CategoricalFeature(USERS, 4, unknown_rate=0.0),
            "dense": NumericFeature([0.0] * 3, [1.0] * 3),
        },
        experts=keras_comet.StackedDenseExperts(4, [8], "relu"),
        gates={
            task: keras_comet.TopKGate(4, permutation=permutation)
            for task in ("click", "rating")
        },
        tasks=[
            Task("click", "binary_crossentropy", activation="sigmoid"),
            Task("rating", "mse", missing_label=np.nan),
        ],
        tower_units=[],
        dispatch="dense",
    )
    model.compile(
        keras_comet.LocalSearchOptimizer(
            keras.optimizers.Adam(0.01), search_steps
        )
    )
    return model


def make_data(num_batches: int, batch_size: int = 16) -> tf.data.Dataset:
    """Makes the same batches in every process."""
    random = np.random.default_rng(0)
    rows = num_batches * batch_size
    dense = random.normal(size=(rows, 3)).astype("float32")
    rating = (dense[:, 0] * dense[:, 1]).astype("float32")
    # Most of these in the rows of one process: they count equally all the same.
    rating[: rows // 3] = np.nan
    inputs = {"user": random.choice([*USERS, "unknown"], rows), "dense": dense}
    labels = {"click": (dense[:, 2] > 0.0).astype("float32"), "rating": rating}
    return tf.data.Dataset.from_tensor_slices((inputs, labels)).batch(
        batch_size
    )


def checksum(weights: list[Any]) -> str:
    """Identifies weights to the bit."""
    digest = hashlib.sha256()
    for each in weights:
        digest.update(np.ascontiguousarray(each).tobytes())
    return digest.hexdigest()[:16]


if __name__ == "__main__":
    main()

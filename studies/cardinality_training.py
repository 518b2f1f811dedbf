"""One training of the cardinality study, in a process of its own."""

import multiprocessing
import tempfile
import warnings
from collections.abc import Iterable
from collections.abc import Iterator
from concurrent import futures
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import keras_comet
from examples import movielens_model as movielens
from keras_comet import datasets

GATES = {
    "comet": keras_comet.COMETGate,
    "dselect_k": keras_comet.DSelectKGate,
}


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


def train(
    data_name: str,
    num_rows: int,
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
    export: bool = False,
) -> dict[str, Any]:
    """Trains once, on the first rows of a data set.

    All experts are computed, whatever the gates choose: the results are the
    same, and tracing a training of a few epochs takes half the time.

    Args:
        data_name: str. `"movielens"` or `"synthetic"`.
        num_rows: int. Rows to train on.
        epochs: int.
        by_epoch: int. Deadline of a `CardinalityTarget`. Defaults to `None`:
            no target.
        gate: str. Key of `GATES`.
        num_experts: int.
        k: int.
        learning_rate: float. Of Adam.
        gamma: float. Defaults to `None`: the gate's default.
        entropy_weight: float.
        seed: int. Of everything random.
        export: bool. Whether to count the experts of an exported model.

    Returns:
        A dict: losses after the last epoch under "validation" and "test",
        "routing", a list by epoch of dicts from the name of a statistic of
        validation rows to its values by gate, and "exported", the share of
        validation rows within k in an exported model, if asked for.
    """
    warnings.filterwarnings("ignore", message=".*shuffle=True.*")
    data, rows = load_data(data_name, num_rows)
    options: dict[str, Any] = {"k": k, "entropy_weight": entropy_weight}
    if gamma is not None:
        options["gamma"] = gamma
    keras.utils.set_random_seed(seed)
    model = movielens.make_model(
        data,
        lambda: GATES[gate](num_experts, **options),
        keras_comet.StackedDenseExperts(
            num_experts, 64, activation="relu", dropout=0.5
        ),
        keras.optimizers.Adam(learning_rate),
        tower_units=64,
        dispatch="dense",
    )
    routing: list[dict[str, list[float]]] = []

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
    history = model.fit(
        rows.batches(movielens.BATCH_SIZE, shuffle=True, seed=seed),
        epochs=epochs,
        validation_data=data.validation.batches(data.validation.num_rows),
        callbacks=callbacks,
        verbose=0,
    )
    test = model.evaluate(
        data.test.batches(data.test.num_rows), verbose=0, return_dict=True
    )
    result = {
        "validation": history.history["val_loss"][-1],
        "test": test["loss"],
        "routing": routing,
    }
    if export:
        result["exported"] = _within_when_served(
            model, data.validation.features, k
        )
    return result


def train_each(
    trainings: Iterable[dict[str, Any]], num_processes: int
) -> Iterator[dict[str, Any]]:
    """Trains with each of these arguments, and yields results in order.

    Every training has a new process: Keras keeps the graphs of the models
    that one has trained, about a gigabyte each. With no process at all they
    train in this one.
    """
    if num_processes == 0:
        yield from map(_train_with, trainings)
        return
    with futures.ProcessPoolExecutor(
        num_processes,
        mp_context=multiprocessing.get_context("spawn"),
        max_tasks_per_child=1,
    ) as pool:
        yield from pool.map(_train_with, trainings)


def _train_with(arguments: dict[str, Any]) -> dict[str, Any]:
    return train(**arguments)


def within_from(result: dict[str, Any], epoch: int) -> float:
    """Finds the least share of rows within k, of all gates, from an epoch."""
    return min(min(each["within_k"]) for each in result["routing"][epoch - 1 :])


def last(result: dict[str, Any], name: str) -> float:
    """Averages a statistic after the last epoch over the gates."""
    return float(np.mean(result["routing"][-1][name]))


class ServedRouting(keras.Model):
    """Returns the routing weights of a recommender, to be exported."""

    def __init__(self, model: keras_comet.MultiGateRecommender) -> None:
        super().__init__()
        self.model = model
        self.input_signature = dict(model.input_signature)

    def call(self, inputs: Any) -> dict[str, tf.Tensor]:
        """Computes the routing weights of every task."""
        encoded = tf.concat(
            [
                feature(inputs[name])
                for name, feature in self.model.features.items()
            ],
            axis=-1,
        )
        return {
            task: gate(encoded, training=False)
            for task, gate in self.model.mixture.gates.items()
        }


def _within_when_served(
    model: keras_comet.MultiGateRecommender, features: Any, k: int
) -> float:
    """Finds the least share of rows within k of all gates, once exported."""
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

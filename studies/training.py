"""One run: trained until validation stops, tested once."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import keras_comet
from keras_comet import datasets
from studies.protocol import Run
from studies.records import Record
from studies.scores import score
from studies.scores import total_loss
from studies.study import Objective
from studies.study import Study

PATIENCE = 5
_STEPS_PER_EXECUTION = 5  # a CardinalityTarget acts after so many
_ROWS_AT_A_TIME = 2048  # of what is not training

_KERAS_LOSSES = {
    "classes": "sparse_categorical_crossentropy",
    "binary": "binary_crossentropy",
    "regression": "mse",
}


class BestWeights(keras.callbacks.Callback):
    """Stops when validation does, and puts the best weights back.

    Unlike `EarlyStopping` it restores all state, whatever ends the training,
    and takes its loss from a function.

    Args:
        validate: function that computes the validation loss.
        patience: int. Epochs without a smaller loss to stop after.
        counts_from: int. First epoch whose weights count.

    Attributes:
        loss: float. The smallest loss so far.
        epoch: int. The epoch of it, counted from 1.
        num_epochs: int. Epochs done.
    """

    def __init__(
        self, validate: Callable[[], float], patience: int, counts_from: int
    ) -> None:
        super().__init__()
        self.validate = validate
        self.patience = patience
        self.counts_from = counts_from
        self.loss = math.inf
        self.epoch = 0
        self.num_epochs = 0
        self._weights: list[np.ndarray] | None = None

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.num_epochs = epoch + 1
        if self.num_epochs < self.counts_from:
            return
        loss = self.validate()
        if loss < self.loss or self._weights is None:
            self.loss = loss
            self.epoch = self.num_epochs
            self._weights = self.model.get_weights()
        elif self.num_epochs >= self.epoch + self.patience:
            self.model.stop_training = True

    def on_train_end(self, logs: Any = None) -> None:
        if self._weights is not None:
            self.model.set_weights(self._weights)


def train(study: Study, run: Run, smoke: bool = False) -> Record:
    """Trains one arm, and reads the test rows once.

    Args:
        study: `Study`.
        run: `Run`.
        smoke: bool. Whether to train two epochs on little data. Defaults to
            `False`.

    Returns:
        The `Record`.
    """
    arm = study.arms[run.arm]
    data = _load(study, run.seed, smoke)
    keras.backend.clear_session()
    # The order of the batches depends on this seed too, and on it alone.
    keras.utils.set_random_seed(run.seed)
    models = study.make_models(data, arm)
    best = []
    begin = time.process_time()
    for tasks, model in models.items():
        _compile(study, model, tasks, run.learning_rate)
        keep = BestWeights(
            functools.partial(_loss, study, tasks, model, data.validation),
            PATIENCE,
            arm.counts_from,
        )
        rows = datasets.Split(
            data.train.features,
            {task: data.train.labels[task] for task in tasks},
        )
        model.fit(
            rows.batches(study.batch_size, shuffle=True, seed=run.seed),
            epochs=arm.counts_from + 1 if smoke else study.max_epochs,
            callbacks=[*arm.make_callbacks(), keep],
            shuffle=False,
            verbose=0,
        )
        best.append(keep)
    seconds = time.process_time() - begin

    predictions = {}
    weights = {}
    for model in models.values():
        predictions |= _predict(model, data.test.features)
        weights |= _routing_weights(model, data.test.features)
    first = study.objectives[0]
    chosen = {label: each > 0.0 for label, each in weights.items()}
    used = np.any([each.any(axis=0) for each in chosen.values()], axis=0)
    counts = np.stack([each.sum(axis=-1) for each in chosen.values()])
    return Record(
        study=study.name,
        arm=run.arm,
        learning_rate=run.learning_rate,
        seed=run.seed,
        validation_loss=sum(each.loss for each in best),
        test_loss=total_loss(study.objectives, data.test.labels, predictions),
        score=score(
            first, data.test.labels[first.task], predictions[first.task]
        ),
        cardinality=float(counts.mean()),
        within_k=float((counts <= study.k).mean()),
        dead_experts=int((~used).sum()),
        seconds=seconds,
        epochs=sum(each.num_epochs for each in best),
        best_epoch=sum(each.epoch for each in best),
        agreement=(
            study.agreement(data, weights) if study.agreement else math.nan
        ),
    )


@functools.lru_cache(maxsize=1)
def _load_cached(
    load: Callable[[int, bool], datasets.MultitaskDataset],
    seed: int,
    smoke: bool,
) -> datasets.MultitaskDataset:
    return load(seed, smoke)


def _load(study: Study, seed: int, smoke: bool) -> datasets.MultitaskDataset:
    return _load_cached(study.load, seed, smoke)


def _compile(
    study: Study,
    model: keras.Model,
    tasks: tuple[str, ...],
    learning_rate: float,
) -> None:
    optimizer = keras.optimizers.Adam(learning_rate)
    if isinstance(model, keras_comet.MultiGateRecommender):
        model.compile(optimizer, steps_per_execution=_STEPS_PER_EXECUTION)
        return
    objectives = [each for each in study.objectives if each.task in tasks]
    model.compile(
        optimizer,
        loss={each.task: make_loss(each) for each in objectives},
        loss_weights={each.task: each.weight for each in objectives},
        steps_per_execution=_STEPS_PER_EXECUTION,
    )


def make_loss(objective: Objective) -> Any:
    """Makes a Keras loss that is a mean over the rows with a label.

    Args:
        objective: `Objective`.

    Returns:
        The name of a loss, or a function of labels and predictions.
    """
    if objective.missing is None:
        return _KERAS_LOSSES[objective.kind]
    of_row = keras.losses.get(_KERAS_LOSSES[objective.kind])

    def loss(labels: tf.Tensor, predictions: tf.Tensor) -> tf.Tensor:
        is_missing = (
            tf.math.is_nan(labels)
            if math.isnan(objective.missing)
            else tf.equal(labels, objective.missing)
        )
        labels = tf.where(is_missing, tf.zeros_like(labels), labels)
        counts = tf.cast(~tf.reshape(is_missing, [-1]), tf.float32)
        losses = tf.reshape(of_row(labels, predictions), [-1])
        return tf.math.divide_no_nan(
            tf.reduce_sum(losses * counts), tf.reduce_sum(counts)
        )

    return loss


def _loss(
    study: Study,
    tasks: tuple[str, ...],
    model: keras.Model,
    rows: datasets.Split,
) -> float:
    return total_loss(
        [each for each in study.objectives if each.task in tasks],
        rows.labels,
        _predict(model, rows.features),
    )


def _predict(
    model: keras.Model, features: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    return model.predict(features, batch_size=_ROWS_AT_A_TIME, verbose=0)


def _routing_weights(
    model: keras.Model, features: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Routing weights of all rows, by task."""
    num_rows = len(next(iter(features.values())))
    parts = [
        keras_comet.routing_weights(
            model,
            {
                name: column[begin : begin + _ROWS_AT_A_TIME]
                for name, column in features.items()
            },
        )
        for begin in range(0, num_rows, _ROWS_AT_A_TIME)
    ]
    return {
        label: np.concatenate([part[label] for part in parts])
        for label in parts[0]
    }

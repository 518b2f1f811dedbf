"""One run: trained until validation stops, tested once."""

from __future__ import annotations

import dataclasses
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
from studies.scores import task_losses
from studies.scores import total_loss
from studies.search_space import draw_setting
from studies.study import Arm
from studies.study import Models
from studies.study import Objective
from studies.study import Study
from studies.trials import Trial
from studies.trials import TrialRun

PATIENCE = 5
_STEPS_PER_EXECUTION = 5  # a CardinalityTarget acts after so many
_ROWS_AT_A_TIME = 2048  # of what is not training
_SEARCH_ROWS = 1024  # of a batch that a search looks at
_SEARCHES_PER_EPOCH = 2
_MOST_EVALUATIONS = 32

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
        counts_from: int. First epoch whose weights count; 0 for those before
            the training.

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

    def on_train_begin(self, logs: Any = None) -> None:
        if self.counts_from == 0:
            self.loss = self.validate()
            self._weights = self.model.get_weights()

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


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a training came to: see `Record` and `Trial`."""

    validation_loss: float
    test_loss: float
    validation_losses: dict[str, float]
    test_losses: dict[str, float]
    score: float
    cardinality: float
    within_k: float
    dead_experts: int
    seconds: float
    epochs: int
    best_epoch: int
    agreement: float


def train(study: Study, run: Run, smoke: bool = False) -> Record:
    """Trains one arm at one learning rate, on the data of the seed.

    Args:
        study: `Study`.
        run: `Run`.
        smoke: bool. Whether to train two epochs on little data. Defaults to
            `False`.

    Returns:
        The `Record`.
    """
    outcome = train_arm(
        study,
        study.arms[run.arm],
        _load(study, run.seed, smoke),
        run.learning_rate,
        run.seed,
        smoke,
    )
    return to_record(study.name, run, outcome)


def to_record(study: str, run: Run, outcome: Outcome) -> Record:
    """Makes the record of a run of what came of it.

    Args:
        study: str. Name of the study.
        run: `Run`.
        outcome: `Outcome`.

    Returns:
        The `Record`.
    """
    shared = {field.name for field in dataclasses.fields(Record)}
    values = vars(outcome).items()
    return Record(
        study, *run, **{name: value for name, value in values if name in shared}
    )


def train_trial(study: Study, run: TrialRun, smoke: bool = False) -> Trial:
    """Trains one arm with the settings of a trial, on the data of seed 0.

    Args:
        study: `Study`.
        run: `TrialRun`.
        smoke: bool. Whether to train two epochs on little data. Defaults to
            `False`.

    Returns:
        The `Trial`.
    """
    arm = study.tuned_arms[run.arm]
    setting = draw_setting(arm.tuned, run.number)
    if smoke:
        setting = setting._replace(search_epochs=min(setting.search_epochs, 1))
    outcome = train_arm(
        study,
        arm.make(setting),
        _load(study, 0, smoke),
        setting.learning_rate,
        run.number,
        smoke,
    )
    values = vars(outcome) | {
        name: _by_task(getattr(outcome, name))
        for name in ("validation_losses", "test_losses")
    }
    del values["agreement"]
    return Trial(study.name, *run, *setting, **values)


def train_arm(
    study: Study,
    arm: Arm,
    data: datasets.MultitaskDataset,
    learning_rate: float,
    seed: int,
    smoke: bool,
) -> Outcome:
    """Makes the models of an arm and trains them: see `train_models`.

    Args:
        study: `Study`.
        arm: `Arm`.
        data: what `study.load` returned.
        learning_rate: float.
        seed: int. Of the weights and of the order of the rows.
        smoke: bool. Whether to train two epochs.

    Returns:
        The `Outcome`.
    """
    keras.backend.clear_session()
    # The order of the batches depends on this seed too, and on it alone.
    keras.utils.set_random_seed(seed)
    models = study.make_models(data, arm)
    return train_models(study, arm, models, data, learning_rate, seed, smoke)


def train_models(
    study: Study,
    arm: Arm,
    models: Models,
    data: datasets.MultitaskDataset,
    learning_rate: float,
    seed: int,
    smoke: bool,
) -> Outcome:
    """Trains until validation stops, and reads the test rows once.

    Args:
        study: `Study`.
        arm: `Arm`. Its callbacks, search and first epoch that counts.
        models: `Models`, which keep the best weights.
        data: what `study.load` returned.
        learning_rate: float.
        seed: int. Of the order of the rows.
        smoke: bool. Whether to train two epochs.

    Returns:
        The `Outcome`.
    """
    best = []
    begin = time.process_time()
    for tasks, model in models.items():
        rows = datasets.Split(
            data.train.features,
            {task: data.train.labels[task] for task in tasks},
        )
        steps = math.ceil(rows.num_rows / study.batch_size)
        optimizer = keras.optimizers.Adam(learning_rate)
        if arm.search_epochs:
            optimizer = keras_comet.LocalSearchOptimizer(
                optimizer, arm.search_epochs * steps, arm.search_method
            )
        batches = rows.batches(study.batch_size, shuffle=True, seed=seed)
        first_batch = next(iter(rows.batches(study.batch_size)))
        _compile(study, model, tasks, optimizer, first_batch, smoke)
        keep = BestWeights(
            functools.partial(_loss, study, tasks, model, data.validation),
            PATIENCE,
            arm.counts_from,
        )
        callbacks = [*arm.make_callbacks(), keep]
        if arm.search_epochs and arm.search_method == "exchange":
            # Before `keep`, which keeps the permutations too.
            callbacks.insert(
                0,
                keras_comet.LocalSearch(
                    rows.batches(study.batch_size if smoke else _SEARCH_ROWS),
                    interval=max(steps // _SEARCHES_PER_EPOCH, 1),
                    max_evaluations=1 if smoke else _MOST_EVALUATIONS,
                ),
            )
        model.fit(
            batches,
            epochs=arm.counts_from + 1 if smoke else study.max_epochs,
            callbacks=callbacks,
            shuffle=False,
            verbose=0,
        )
        best.append(keep)
    seconds = time.process_time() - begin

    predictions = {}
    validation_predictions = {}
    weights = {}
    for model in models.values():
        validation_predictions |= _predict(model, data.validation.features)
        predictions |= _predict(model, data.test.features)
        weights |= _routing_weights(model, data.test.features)
    first = study.objectives[0]
    chosen = {label: each > 0.0 for label, each in weights.items()}
    used = np.any([each.any(axis=0) for each in chosen.values()], axis=0)
    counts = np.stack([each.sum(axis=-1) for each in chosen.values()])
    return Outcome(
        validation_loss=sum(each.loss for each in best),
        test_loss=total_loss(study.objectives, data.test.labels, predictions),
        validation_losses=task_losses(
            study.objectives, data.validation.labels, validation_predictions
        ),
        test_losses=task_losses(
            study.objectives, data.test.labels, predictions
        ),
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


def _by_task(losses: Mapping[str, float]) -> str:
    return " ".join(f"{task}={loss:.6g}" for task, loss in losses.items())


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
    optimizer: keras.optimizers.Optimizer,
    batch: Any,
    smoke: bool,
) -> None:
    # Two epochs of little data take less time than a graph.
    arguments = {
        "run_eagerly": smoke,
        "steps_per_execution": 1 if smoke else _STEPS_PER_EXECUTION,
    }
    if not isinstance(model, keras_comet.MultiGateRecommender):
        objectives = [each for each in study.objectives if each.task in tasks]
        arguments |= {
            "loss": {each.task: make_loss(each) for each in objectives},
            "loss_weights": {each.task: each.weight for each in objectives},
        }
    model.compile(optimizer, **arguments)
    # Keras traces the first step twice if that creates variables.
    model.test_step(batch)
    model.reset_metrics()
    optimizer.build(model.trainable_variables)


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

"""A training that is killed and started again, against one that is not."""

import json

import numpy as np
import pytest

from tests.helpers import run_script

# Updates: 6 an epoch, 18 in all. Searches: after 3, 6, 9 and 12.
SCRIPT = """
import dataclasses
import json
import os
import pathlib
import signal
import sys

import numpy as np
import tensorflow as tf

import keras_comet
from keras_comet._keras import KERAS_3, keras
from keras_comet.search.objective import Objective

ROOT = pathlib.Path(sys.argv[1])


def die():
    os.kill(os.getpid(), signal.SIGKILL)


class DieAfter(keras.callbacks.Callback):
    def __init__(self, update):
        super().__init__()
        self.update = update

    def on_train_batch_end(self, batch, logs=None):
        if int(self.model.optimizer.iterations) == self.update:
            die()


def die_inside_of_search_after(update, model):
    compute = Objective.loss

    def compute_or_die(self, rows):
        step = int(model.optimizer.iterations)
        if step == update and self._budget.evaluations == 4:
            die()
        return compute(self, rows)

    Objective.loss = compute_or_die


def make_model(method):
    keras.utils.set_random_seed(1)
    gate = keras_comet.TopKGate(
        4, noise=True, seed=2, permutation=keras_comet.ExpertPermutation(4)
    )
    experts = keras_comet.StackedDenseExperts(4, [6], "relu")
    mixture = keras_comet.MixtureOfExperts(experts, gate, dispatch="dense")
    inputs = keras.Input((3,))
    hidden = keras.layers.Dropout(0.3, seed=3)(mixture(inputs))
    outputs = keras.layers.Dense(1)(hidden)
    model = keras.Model(inputs, outputs)
    optimizer = keras_comet.LocalSearchOptimizer(
        keras.optimizers.Adam(0.01, clipnorm=1.0),
        12,
        method=method,
        num_iterations=3,
    )
    model.compile(optimizer, "mse", metrics=["mae"])
    return model


def train(method, run, kill=None):
    tf.config.experimental.enable_op_determinism()
    # One of the two methods, and Keras 2, without the time that tracing takes.
    tf.config.run_functions_eagerly(method == "sinkhorn" or not KERAS_3)
    if not KERAS_3:
        keras.backend.experimental.enable_tf_random_generator()
    model = make_model(method)
    random = np.random.default_rng(4)
    x = random.normal(size=(22, 3)).astype("float32")
    whole = tf.data.Dataset.from_tensor_slices((x, x[:, :1] * x[:, 1:2]))
    callbacks = []
    if kill is not None:
        where, update = kill
        if where == "inside" and method == "exchange":
            die_inside_of_search_after(update, model)
        else:
            callbacks.append(DieAfter(update))
    trainer = keras_comet.Trainer(
        model,
        search_data=whole.batch(8),
        search_interval=3,
        max_evaluations=12,
        checkpoint_dir=ROOT / method / run,
        checkpoint_interval=2,
    )
    history = trainer.fit(
        whole.shuffle(22, seed=5).batch(4).prefetch(2),
        epochs=3,
        validation_data=whole.batch(11),
        callbacks=callbacks,
        verbose=0,
    )
    reports = {
        step: {**dataclasses.asdict(report), "seconds": 0}
        for step, report in trainer.reports.items()
    }
    values = [
        tf.convert_to_tensor(variable)
        for variable in [*model.variables, *model.optimizer.variables]
    ]
    np.savez(ROOT / f"{method}_{run}.npz", *values)
    text = json.dumps([history.epoch, history.history, reports])
    (ROOT / f"{method}_{run}.json").write_text(text)


# Children of one process, as importing TensorFlow takes longest.
def in_child(*arguments):
    child = os.fork()
    if child == 0:
        try:
            train(*arguments)
        except BaseException:
            sys.excepthook(*sys.exc_info())
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


for method in ("exchange", "sinkhorn"):
    assert in_child(method, "whole") == 0
    for kill in (("before", 2), ("inside", 9), ("after", 16)):
        assert in_child(method, "killed", kill) == -signal.SIGKILL, kill
    assert in_child(method, "killed") == 0
"""


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    directory = tmp_path_factory.mktemp("trainings")
    finished = run_script(SCRIPT, str(directory))
    assert finished.returncode == 0, finished.stderr
    return directory


@pytest.mark.slow
@pytest.mark.parametrize("method", ["exchange", "sinkhorn"])
def test_training_killed_three_times_ends_as_one_that_was_not(
    method, directory
):
    whole, killed = (
        json.loads((directory / f"{method}_{run}.json").read_text())
        for run in ("whole", "killed")
    )
    assert killed == whole
    epochs, history, reports = whole
    assert epochs == [0, 1, 2]
    assert len(history["val_mae"]) == 3
    if method == "exchange":
        assert sorted(map(int, reports)) == [3, 6, 9, 12]
        assert any(report["moves"] for report in reports.values())
    whole, killed = (
        np.load(directory / f"{method}_{run}.npz")
        for run in ("whole", "killed")
    )
    assert whole.files == killed.files
    for name in whole.files:
        np.testing.assert_array_equal(whole[name], killed[name])

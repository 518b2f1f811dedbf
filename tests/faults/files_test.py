"""Files that are damaged, cut short, or cannot be written."""

import os

import pytest
import tensorflow as tf

import keras_comet
from keras_comet._keras import keras
from tests.faults import recommender
from tests.helpers import largest_file
from tests.helpers import run_script

EVERY = 40  # Number of places at which a file is damaged.


def damaged(path):
    """Writes the file anew: cut short, and with one bit changed, by turns."""
    content = path.read_bytes()
    for position in range(0, len(content), -(-len(content) // EVERY)):
        path.write_bytes(content[:position])
        yield "cut", position
        changed = bytearray(content)
        changed[position] ^= 16
        path.write_bytes(changed)
        yield "changed", position


@pytest.mark.usefixtures("eager")
def test_damaged_weights_leave_the_model_as_it_was(tmp_path):
    model = recommender.make_recommender()
    path = tmp_path / "model.weights.h5"
    model.save_weights(path)
    model.set_weights([each + 1 for each in model.get_weights()])
    before = model.get_weights()
    errors = []
    for kind, position in damaged(path):
        try:
            model.load_weights(path)
        except ValueError as error:
            errors.append(str(error))
            recommender.assert_same(before, model.get_weights())
        else:
            # HDF5 has no checksums: a number, or free space.
            assert kind == "changed", position
            model.set_weights(before)
    assert len(errors) >= EVERY
    assert any("are as before" in each for each in errors)


@pytest.mark.usefixtures("eager")
def test_damaged_keras_file_is_an_error_or_the_same_model(tmp_path):
    model = recommender.make_recommender()
    expected = model.get_weights()
    path = tmp_path / "model.keras"
    model.save(path)
    failures = 0
    for kind, position in list(damaged_in_part(path, 6)):
        try:
            loaded = keras.models.load_model(path, compile=False)
        except Exception as error:
            assert str(error), (kind, position)
            failures += 1
        else:
            assert kind == "changed", position
            recommender.assert_same(expected, loaded.get_weights())
    assert failures >= 6


def damaged_in_part(path, count):
    every = 2 * EVERY // count
    for index, (kind, position) in enumerate(damaged(path)):
        if index % every in (0, 1):
            yield kind, position


def make_mixture(units):
    inputs = keras.Input((3,))
    mixture = keras_comet.MixtureOfExperts(
        keras_comet.StackedDenseExperts(4, [units]), keras_comet.TopKGate(4)
    )
    return keras.Model(inputs, mixture(inputs))


def test_full_disk_leaves_the_earlier_export_alone(tmp_path):
    keras_comet.export_saved_model(make_mixture(1), tmp_path / "1")
    before = {
        path: path.read_bytes()
        for path in tmp_path.rglob("*")
        if path.is_file()
    }
    with (
        largest_file(1000),
        pytest.raises((OSError, tf.errors.OpError), match="File too large"),
    ):
        keras_comet.export_saved_model(make_mixture(200), tmp_path / "2")
    assert os.listdir(tmp_path) == ["1"]
    assert all(path.read_bytes() == content for path, content in before.items())


@pytest.mark.usefixtures("eager")
def test_full_disk_leaves_no_half_checkpoint(tmp_path):
    model = recommender.make_recommender(run_eagerly=True)
    with (
        largest_file(1000),
        pytest.warns(UserWarning, match="Is the disk full?"),
    ):
        keras_comet.Trainer(model, checkpoint_dir=tmp_path).fit(
            recommender.batches(), verbose=0
        )
    assert os.listdir(tmp_path) == []


# Epochs of three updates. The first process is killed while it writes the
# checkpoint after the sixth, when its file is there but not yet named.
KILLED = """
import os
import signal
import sys

import tensorflow as tf

import keras_comet
from keras_comet.training import checkpoints
from tests.faults import recommender

tf.config.run_functions_eagerly(True)


def train(directory, epochs, where=None):
    model = recommender.make_recommender(run_eagerly=True)
    trainer = keras_comet.Trainer(model, checkpoint_dir=directory)
    serialize = checkpoints._SavedProgress.serialize
    record = tf.train.CheckpointManager._record_state

    def die_before(call, place):
        calls = []

        def call_or_die(self, *args):
            calls.append(args)
            if place == where and len(calls) == 2:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(self, *args)

        return call_or_die

    # What is written first, and what comes after the files.
    checkpoints._SavedProgress.serialize = die_before(serialize, "before")
    tf.train.CheckpointManager._record_state = die_before(record, "after")
    trainer.fit(recommender.batches(), epochs, verbose=0)
    return [value.tolist() for value in recommender.read_weights(model)]


def run(*arguments):
    child = os.fork()
    if child == 0:
        try:
            train(*arguments)
        except BaseException:
            sys.excepthook(*sys.exc_info())
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


places = {
    name: os.path.join(sys.argv[1], name)
    for name in ("before", "after", "whole")
}
for where in ("before", "after"):
    assert run(places[where], 3, where) == -signal.SIGKILL, where
    newest = tf.train.latest_checkpoint(places[where])
    assert os.path.basename(newest) == "update-3", newest
resumed, whole = [], train(places["whole"], 3)
for where in ("before", "after"):
    resumed.append(train(places[where], 3))
print("equal", resumed == [whole, whole])
"""


@pytest.mark.slow
def test_process_killed_while_it_writes_resumes_from_the_one_before(tmp_path):
    finished = run_script(KILLED, str(tmp_path))
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout == "equal True\n", finished.stderr

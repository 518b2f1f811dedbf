import contextlib
import csv
import os

import numpy as np
import pytest
import tensorflow as tf

from keras_comet import CategoricalFeature
from keras_comet import ExpertPermutation
from keras_comet import HashGate
from keras_comet import LocalSearch
from keras_comet import LocalSearchOptimizer
from keras_comet import MixtureOfExperts
from keras_comet import MultiGateRecommender
from keras_comet import StackedDenseExperts
from keras_comet import Task
from keras_comet import TopKGate
from keras_comet import Trainer
from keras_comet._keras import KERAS_3
from keras_comet._keras import keras
from keras_comet.training.train_step import build_for_training
from tests.helpers import largest_file
from tests.helpers import rows

X = rows(22, 3)
Y = X[:, :1] * X[:, 1:2]


def batches(size=4):
    return tf.data.Dataset.from_tensor_slices((X, Y)).batch(size)


def shuffled():
    return tf.data.Dataset.from_tensor_slices((X, Y)).shuffle(22, 1).batch(4)


def linear_model(optimizer=None):
    """A linear model that starts at zero."""
    model = keras.Sequential(
        [keras.Input((3,)), keras.layers.Dense(1, kernel_initializer="zeros")]
    )
    model.compile(
        optimizer or keras.optimizers.Adam(0.1), "mse", metrics=["mae"]
    )
    return model


def mixture_model(search_steps=0):
    """The same each time, with noise and regularizers."""
    keras.utils.set_random_seed(2)
    gate = TopKGate(
        4,
        noise=True,
        load_balance_weight=0.1,
        seed=3,
        permutation=ExpertPermutation(4),
    )
    experts = StackedDenseExperts(4, [4], "relu")
    inputs = keras.Input((3,))
    combined = MixtureOfExperts(experts, gate, dispatch="dense")(inputs)
    outputs = keras.layers.Dense(1, dtype="float32")(combined)
    model = keras.Model(inputs, outputs)
    adam = keras.optimizers.Adam(0.01)
    model.compile(
        LocalSearchOptimizer(adam, search_steps), "mse", metrics=["mae"]
    )
    return model


def assert_equal_weights(model, expected):
    for ours, theirs in zip(
        model.get_weights(), expected.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


def assert_trains_as_fit(make_model, data, **arguments):
    expected = make_model()
    # Or TensorFlow traces the first step twice.
    build_for_training(expected, next(iter(data)))
    fitted = expected.fit(data, verbose=0, **arguments)
    model = make_model()
    history = Trainer(model).fit(data, verbose=0, **arguments)
    assert history.history == fitted.history
    assert history.epoch == fitted.epoch
    assert_equal_weights(model, expected)


def test_weights_and_history_equal_those_of_fit():
    assert_trains_as_fit(
        mixture_model, batches(), epochs=3, validation_data=batches(8)
    )


@pytest.mark.usefixtures("eager")
def test_validation_on_arrays_equals_that_of_fit():
    assert_trains_as_fit(
        linear_model, batches(), epochs=2, validation_data=(X, Y)
    )


@pytest.mark.usefixtures("eager")
@pytest.mark.skipif(KERAS_3, reason="fit() shuffles twice for each epoch")
def test_shuffled_data_comes_in_the_order_of_fit():
    expected, model = linear_model(), linear_model()
    expected.fit(shuffled(), epochs=3, verbose=0)
    Trainer(model).fit(shuffled(), epochs=3, verbose=0)
    assert_equal_weights(model, expected)


def test_half_precision_with_a_loss_scale_equals_fit():
    keras.mixed_precision.set_global_policy("mixed_float16")
    assert hasattr(mixture_model().optimizer, "inner_optimizer")
    assert_trains_as_fit(mixture_model, batches(), epochs=2)


@pytest.mark.slow
@pytest.mark.usefixtures("eager")
def test_searches_are_those_of_the_callback():
    expected = mixture_model(search_steps=9)
    search = LocalSearch(batches(8), interval=4, max_evaluations=8)
    expected.fit(batches(), epochs=2, callbacks=[search], verbose=0)
    model = mixture_model(search_steps=9)
    trainer = Trainer(model, batches(8), 4, max_evaluations=8)
    trainer.fit(batches(), epochs=2, verbose=0)
    assert sorted(trainer.reports) == [4, 8]
    assert any(report.moves for report in trainer.reports.values())
    for step, report in trainer.reports.items():
        assert report.loss_after <= report.loss_before
        for name in ("loss_before", "loss_after", "moves", "evaluations"):
            theirs = getattr(search.reports[step], name)
            assert getattr(report, name) == theirs
    assert_equal_weights(model, expected)


def recommender():
    keras.utils.set_random_seed(4)
    model = MultiGateRecommender(
        features={"user": CategoricalFeature(range(5), embedding_dim=3)},
        experts=StackedDenseExperts(3, [4], "relu"),
        gates={"watch": HashGate(3), "rating": TopKGate(3)},
        tasks=[
            Task(
                "watch",
                "binary_crossentropy",
                # Keras 2 would number the second model's.
                [keras.metrics.AUC(name="auc")],
                activation="sigmoid",
            ),
            Task("rating", "mse", ["mae"], weight=0.3, missing_label=0.0),
        ],
        tower_units=[4],
        dispatch="dense",
    )
    model.compile("adam")
    return model


def labelled(ratings):
    return tf.data.Dataset.from_tensor_slices(
        (
            {"user": np.arange(8) % 5},
            {"watch": np.arange(8) % 2 * 1.0, "rating": ratings},
        )
    ).batch(4)


@pytest.mark.usefixtures("eager")
def test_several_tasks_with_weights_and_missing_labels_equal_fit():
    ratings = np.array([0.0, 3, 0, 4, 0, 0, 0, 0])
    assert_trains_as_fit(
        recommender,
        labelled(ratings),
        epochs=2,
        validation_data=labelled(ratings),
    )


def test_task_without_labels_is_not_trained():
    model = recommender()
    before = [w.copy() for w in model.towers["rating"].get_weights()]
    watch = model.towers["watch"].get_weights()[0].copy()
    history = Trainer(model).fit(labelled(np.zeros(8)), verbose=0)
    assert history.history["rating_loss"] == [0.0]
    for old, new in zip(
        before, model.towers["rating"].get_weights(), strict=True
    ):
        np.testing.assert_array_equal(old, new)
    assert np.abs(model.towers["watch"].get_weights()[0] - watch).max() > 0


@pytest.mark.usefixtures("eager")
def test_gradients_are_clipped_as_the_inner_optimizer_says():
    sgd = keras.optimizers.SGD(0.5, global_clipnorm=0.01)
    model = linear_model(LocalSearchOptimizer(sgd, 0))
    Trainer(model).fit(batches(22), verbose=0)
    # d/dw mean (y - x w - b)^2 at w = b = 0
    kernel, bias = -2 * X.T @ Y / 22, -2 * Y.mean(axis=0)
    norm = np.sqrt((kernel**2).sum() + (bias**2).sum())
    assert norm > 0.01
    for found, gradient in zip(
        model.get_weights(), (kernel, bias), strict=True
    ):
        np.testing.assert_allclose(
            found, -0.5 * 0.01 / norm * gradient, rtol=1e-5
        )


def test_step_is_traced_once_also_with_a_ragged_last_batch():
    traces = []

    class Counting(keras.layers.Layer):
        def call(self, inputs, training=None):
            if training:
                traces.append(1)
            return inputs

    inputs = keras.Input((3,))
    outputs = keras.layers.Dense(1)(Counting()(inputs))
    model = keras.Model(inputs, outputs)
    model.compile("adam", "mse")
    Trainer(model).fit(batches(), epochs=2, verbose=0)
    assert len(traces) == 1


@pytest.mark.usefixtures("eager")
def test_callbacks_of_keras_work(tmp_path):
    model = linear_model(keras.optimizers.SGD(0.0))
    weights = str(tmp_path / "{epoch}.weights.h5")
    Trainer(model).fit(
        batches(),
        epochs=4,
        validation_data=batches(),
        callbacks=[
            keras.callbacks.ModelCheckpoint(weights, save_weights_only=True),
            keras.callbacks.TensorBoard(str(tmp_path), update_freq=1),
            keras.callbacks.TerminateOnNaN(),
            keras.callbacks.ReduceLROnPlateau(patience=1, factor=0.5),
            keras.callbacks.CSVLogger(str(tmp_path / "log.csv")),
            keras.callbacks.EarlyStopping(patience=3),
        ],
        verbose=0,
    )
    assert sorted(f.name for f in tmp_path.glob("*.h5")) == [
        f"{epoch}.weights.h5" for epoch in (1, 2, 3, 4)
    ]
    with open(tmp_path / "log.csv") as file:
        table = list(csv.DictReader(file))
    assert [row["epoch"] for row in table] == ["0", "1", "2", "3"]
    loss = np.mean(np.square(Y))
    for row in table:
        np.testing.assert_allclose(float(row["val_loss"]), loss, rtol=1e-5)
    [events] = (tmp_path / "train").glob("*.tfevents.*")
    steps = [
        event.step
        for record in tf.data.TFRecordDataset(str(events))
        for event in [tf.compat.v1.Event.FromString(record.numpy())]
        for value in event.summary.value
        if value.tag == "epoch_loss"
    ]
    assert steps == [0, 1, 2, 3]


class Ends(keras.callbacks.Callback):
    """Counts how often a training ends."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def on_train_end(self, logs=None):
        self.count += 1


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("hook", ["on_train_begin", "on_train_batch_end"])
def test_exception_ends_the_training_for_all_callbacks(hook):
    def stop(*arguments, **keywords):
        raise KeyboardInterrupt

    failing = keras.callbacks.LambdaCallback(**{hook: stop})
    first, last = Ends(), Ends()
    with pytest.raises(KeyboardInterrupt):
        Trainer(linear_model()).fit(
            batches(), callbacks=[first, failing, last], verbose=0
        )
    assert (first.count, last.count) == (1, 1)


@pytest.mark.usefixtures("eager")
def test_learning_rate_is_reduced_on_a_plateau():
    model = linear_model(keras.optimizers.SGD(0.0))
    reduce = keras.callbacks.ReduceLROnPlateau(
        "loss", patience=1, factor=0.5, min_lr=-1.0
    )
    model.optimizer.learning_rate = 1e-12
    history = Trainer(model).fit(
        batches(), epochs=3, callbacks=[reduce], verbose=0
    )
    name = "learning_rate" if KERAS_3 else "lr"
    np.testing.assert_allclose(
        history.history[name], [1e-12, 1e-12, 5e-13], rtol=1e-6
    )


@pytest.mark.usefixtures("eager")
def test_early_stopping_stops_and_keeps_the_best_weights(tmp_path):
    model = linear_model(keras.optimizers.SGD(1.5))  # which diverges
    stopping = keras.callbacks.EarlyStopping(
        "loss", patience=1, restore_best_weights=True
    )
    weights = []
    record = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: weights.append(model.get_weights())
    )
    history = Trainer(model).fit(
        batches(), epochs=9, callbacks=[record, stopping], verbose=0
    )
    assert history.epoch == [0, 1]
    for best, found in zip(weights[0], model.get_weights(), strict=True):
        np.testing.assert_array_equal(best, found)


@pytest.mark.usefixtures("eager")
def test_not_a_number_ends_training_and_is_no_checkpoint(tmp_path):
    labels = np.zeros((20, 1), "float32")
    labels[13] = np.nan
    data = tf.data.Dataset.from_tensor_slices((X[:20], labels)).batch(4)
    seen = []
    history = Trainer(linear_model(), checkpoint_dir=tmp_path).fit(
        data,
        epochs=5,
        callbacks=[
            keras.callbacks.TerminateOnNaN(),
            keras.callbacks.LambdaCallback(
                on_train_batch_end=lambda batch, logs: seen.append(batch)
            ),
        ],
        verbose=0,
    )
    assert seen == [0, 1, 2, 3]
    assert history.epoch == [0]
    assert not list(tmp_path.glob("update*"))


@pytest.mark.usefixtures("eager")
def test_progress_bar_shows_tasks_and_validation(capsys):
    data = labelled(np.arange(8.0))
    Trainer(recommender()).fit(data, validation_data=data, verbose=1)
    shown = capsys.readouterr().out
    assert "2/2" in shown
    for name in ("watch_loss", "rating_mae", "val_loss", "val_rating_loss"):
        assert f" {name}: " in shown


def update_numbers(directory):
    """The updates after which there are checkpoints."""
    return sorted(
        int(path.stem.split("-")[1]) for path in directory.glob("*.index")
    )


def train_with_checkpoints(
    directory, epochs, callbacks=(), make_model=linear_model, **arguments
):
    model = make_model()
    trainer = Trainer(model, checkpoint_dir=directory, **arguments)
    history = trainer.fit(
        shuffled(),
        epochs,
        validation_data=batches(),
        callbacks=callbacks,
        verbose=0,
    )
    return model, history


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make_model", "in_a_graph"), [(linear_model, False), (mixture_model, True)]
)
def test_second_training_resumes_the_first(
    make_model, in_a_graph, tmp_path, eager
):
    tf.config.run_functions_eagerly(not in_a_graph)

    def train(run, epochs):
        return train_with_checkpoints(
            tmp_path / run, epochs, make_model=make_model
        )

    expected, whole = train("whole", epochs=4)
    train("parts", epochs=1)
    model, history = train("parts", epochs=4)
    assert_equal_weights(model, expected)
    assert history.epoch == [0, 1, 2, 3]
    assert history.history == whole.history
    # There is nothing left to do.
    model, history = train("parts", epochs=4)
    assert_equal_weights(model, expected)
    assert history.history == whole.history


@pytest.mark.usefixtures("eager")
def test_checkpoints_are_written_when_due_and_the_newest_kept(tmp_path):
    # 6 updates in an epoch.
    train_with_checkpoints(tmp_path / "a", epochs=5)
    assert update_numbers(tmp_path / "a") == [18, 24, 30]
    train_with_checkpoints(
        tmp_path / "b", epochs=2, checkpoint_interval=4, max_checkpoints=9
    )
    assert update_numbers(tmp_path / "b") == [4, 6, 8, 12]


@pytest.mark.slow
def test_learning_rate_and_reports_are_resumed(tmp_path):
    def train(epochs, callbacks=()):
        model = mixture_model(search_steps=6)
        trainer = Trainer(model, batches(), 6, 2, checkpoint_dir=tmp_path)
        trainer.fit(batches(), epochs, callbacks=callbacks, verbose=0)
        return model, trainer

    schedule = keras.callbacks.LearningRateScheduler(lambda epoch: 0.125)
    _, first = train(1, [schedule])
    model, second = train(2)
    assert float(model.optimizer.learning_rate) == 0.125
    assert first.reports == second.reports != {}


@pytest.mark.slow
@pytest.mark.usefixtures("eager")
def test_full_disk_is_a_warning_and_training_goes_on(tmp_path):
    expected, _ = train_with_checkpoints(tmp_path / "whole", epochs=4)
    full = contextlib.ExitStack()
    fills = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: (
            full.enter_context(largest_file(1000)) if epoch == 1 else None
        )
    )
    with full, pytest.warns(UserWarning, match="Is the disk full?") as caught:
        _, history = train_with_checkpoints(
            tmp_path / "parts", epochs=3, callbacks=[fills]
        )
    assert history.epoch == [0, 1, 2]
    messages = [str(each.message) for each in caught]
    assert len(messages) == 2
    assert "after update 12 could not be written" in messages[0]
    assert str(tmp_path / "parts" / "update-6") in messages[1]
    assert update_numbers(tmp_path / "parts") == [6]
    model, _ = train_with_checkpoints(tmp_path / "parts", epochs=4)
    assert_equal_weights(model, expected)


def cut(path):
    os.truncate(path, path.stat().st_size // 2)


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize(
    ("damage", "part"),
    [
        (cut, ".data-00000-of-00001"),
        (flip_a_bit, ".data-00000-of-00001"),
        (cut, ".index"),
        (os.remove, ".index"),
    ],
)
def test_damaged_checkpoint_is_named_and_the_one_before_used(
    damage, part, tmp_path
):
    expected, whole = train_with_checkpoints(tmp_path, epochs=2)
    newest = tmp_path / "update-12"
    damage(newest.with_name(newest.name + part))
    with pytest.warns(UserWarning, match="one before") as caught:
        model, history = train_with_checkpoints(tmp_path, epochs=2)
    assert len(caught) == 1
    assert str(newest) in str(caught[0].message)
    assert history.history == whole.history
    assert_equal_weights(model, expected)
    # It was written again.
    train_with_checkpoints(tmp_path, epochs=2)


@pytest.mark.usefixtures("eager")
def test_directory_of_damaged_checkpoints_is_an_error(tmp_path):
    train_with_checkpoints(tmp_path, epochs=2)
    for path in tmp_path.glob("*.index"):
        cut(path)
    with (
        pytest.warns(UserWarning, match="cannot be read"),
        pytest.raises(ValueError, match="None of the checkpoints"),
    ):
        train_with_checkpoints(tmp_path, epochs=3)


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("other", ["shapes", "fewer", "more"])
def test_checkpoint_of_another_model_is_an_error(other, tmp_path):
    def train(units):
        layers = [keras.layers.Dense(n) for n in units]
        model = keras.Sequential([keras.Input((3,)), *layers])
        model.compile("adam", "mse")
        Trainer(model, checkpoint_dir=tmp_path).fit(batches(), verbose=0)

    train([4, 1])
    with pytest.raises(ValueError, match="of another model"):
        train({"shapes": [5, 1], "fewer": [4], "more": [4, 1, 1]}[other])


def generated():
    return tf.data.Dataset.from_generator(
        lambda: iter(zip(X, Y, strict=True)),
        output_signature=(tf.TensorSpec((3,)), tf.TensorSpec((1,))),
    ).batch(4)


@pytest.mark.usefixtures("eager")
def test_generator_trains_as_its_examples_but_not_with_checkpoints(tmp_path):
    expected, model = linear_model(), linear_model()
    Trainer(expected).fit(batches(), epochs=2, verbose=0)
    Trainer(model).fit(generated(), epochs=2, verbose=0)
    assert_equal_weights(model, expected)
    with pytest.raises(ValueError, match="Dataset.save"):
        Trainer(model, checkpoint_dir=tmp_path).fit(generated(), verbose=0)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ((X, Y), "must be a `tf.data.Dataset`"),
        (batches().repeat(), "must be finite"),
        (batches().take(0), "at least one batch"),
    ],
)
def test_unsuitable_data_is_an_error(data, message):
    with pytest.raises(ValueError, match=message):
        Trainer(linear_model()).fit(data)


@pytest.mark.parametrize(
    "arguments", [{"checkpoint_interval": 0}, {"max_checkpoints": 0}]
)
def test_number_below_one_is_an_error(arguments):
    with pytest.raises(ValueError, match="at least 1"):
        Trainer(linear_model(), **arguments)


def test_what_the_search_needs_is_said_at_once():
    model = mixture_model(search_steps=3)
    with pytest.raises(ValueError, match="search_data"):
        Trainer(model)
    with pytest.raises(ValueError, match="interval"):
        Trainer(model, batches(), search_interval=0)
    with pytest.raises(ValueError, match="LocalSearchOptimizer"):
        Trainer(linear_model(), batches())
    with pytest.raises(ValueError, match="compiled"):
        Trainer(keras.Sequential([keras.layers.Dense(1)]))


@pytest.mark.usefixtures("eager")
@pytest.mark.skipif(KERAS_3, reason="Keras 3 has its random state in variables")
def test_random_state_that_cannot_be_saved_is_named(tmp_path):
    model = keras.Sequential(
        [keras.layers.Dropout(0.5, name="drop"), keras.layers.Dense(1)]
    )
    model.compile("adam", "mse")
    with pytest.warns(UserWarning, match="enable_tf_random_generator") as seen:
        Trainer(model, checkpoint_dir=tmp_path).fit(batches(), verbose=0)
    assert "['drop']" in str(seen[0].message)

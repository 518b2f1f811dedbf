"""The callback searches as often as it says, and harms nothing."""

import itertools

import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing import event_accumulator

import keras_comet
from keras_comet._keras import keras
from keras_comet.search.search_batches import SearchBatches

NUM_EXPERTS = 4


def make_mixture(permutation):
    return keras_comet.MixtureOfExperts(
        keras_comet.StackedDenseExperts(NUM_EXPERTS, [6], "tanh"),
        keras_comet.TopKGate(NUM_EXPERTS, k=2, permutation=permutation),
        dispatch="dense",
    )


def make_model(
    permutation, method="exchange", search_steps=100, run_eagerly=True
):
    inputs = keras.Input((6,))
    hidden = make_mixture(permutation)(inputs)
    model = keras.Model(inputs, keras.layers.Dense(1)(hidden))
    model.compile(
        keras_comet.LocalSearchOptimizer(
            keras.optimizers.Adam(1e-2), search_steps, method=method
        ),
        loss="mse",
        metrics=["mae"],
        run_eagerly=run_eagerly,
    )
    return model


def make_data(num_rows=96, batch=16):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(num_rows, 6)).astype("float32")
    y = np.sin(x[:, :1]) * x[:, 1:2]
    return tf.data.Dataset.from_tensor_slices((x, y)).batch(batch)


@pytest.mark.slow
def test_searches_every_interval_until_the_search_ends():
    permutation = keras_comet.ExpertPermutation(NUM_EXPERTS)
    model = make_model(permutation, search_steps=9, run_eagerly=False)
    search = keras_comet.LocalSearch(make_data(), interval=4)
    model.fit(make_data(), epochs=3, callbacks=[search], verbose=0)
    assert list(search.reports) == [4, 8]
    for report in search.reports.values():
        assert report.loss_after <= report.loss_before


@pytest.mark.slow
def test_loss_of_the_batch_falls_as_reported():
    permutation = keras_comet.ExpertPermutation(NUM_EXPERTS)
    model = make_model(permutation)
    data = make_data()
    model.fit(data, epochs=8, verbose=0)
    permutation.assignment.assign([[1, 2, 3, 0]])
    batches = data.take(1)
    before = model.evaluate(batches, verbose=0)[0]
    search = keras_comet.LocalSearch(batches, interval=1, max_evaluations=None)
    # A model that is not trained, so that only the search changes it.
    model.optimizer.learning_rate = 0.0
    model.fit(data.take(1), callbacks=[search], verbose=0)
    [report] = search.reports.values()
    np.testing.assert_allclose(report.loss_before, before, rtol=1e-5)
    after = model.evaluate(batches, verbose=0)[0]
    np.testing.assert_allclose(report.loss_after, after, rtol=1e-5)
    assert after < before and report.is_local_optimum


def test_metrics_of_the_epoch_are_those_without_search():
    data = make_data().map(lambda x, y: (x, {"first": y, "second": -y}))
    histories = []
    for interval in (1000, 6):
        keras.utils.set_random_seed(3)
        permutation = keras_comet.ExpertPermutation(NUM_EXPERTS)
        trunk = make_model(permutation)
        heads = {
            name: keras.layers.Dense(1, name=name)(trunk.output)
            for name in ("first", "second")
        }
        model = keras.Model(trunk.input, heads)
        # The losses of several outputs are metrics too.
        model.compile(
            keras_comet.LocalSearchOptimizer("adam", 100),
            loss={"first": "mse", "second": "mae"},
            run_eagerly=True,
        )
        search = keras_comet.LocalSearch(data, interval=interval)
        history = model.fit(data, callbacks=[search], verbose=0)
        histories.append(history.history)
    assert len(search.reports) == 1
    assert len(histories[0]) == 3
    # The search after the last update must not count in the epoch's means.
    assert histories[0] == histories[1]


@pytest.mark.slow
def test_steps_per_execution_searches_once_for_several_updates():
    permutation = keras_comet.ExpertPermutation(NUM_EXPERTS)
    model = make_model(permutation)
    model.compile(model.optimizer, loss="mse", steps_per_execution=3)
    search = keras_comet.LocalSearch(make_data(), interval=2)
    model.fit(make_data(), callbacks=[search], verbose=0)
    assert list(search.reports) == [3, 6]


@pytest.mark.slow
def test_recommender_with_missing_labels_is_searched():
    permutation = keras_comet.ExpertPermutation(NUM_EXPERTS)
    names = ("click", "rating")
    model = keras_comet.MultiGateRecommender(
        features={"user": keras_comet.CategoricalFeature(list("abcdefgh"), 4)},
        experts=keras_comet.StackedDenseExperts(NUM_EXPERTS, [3]),
        gates={
            name: keras_comet.HashGate(NUM_EXPERTS, permutation=permutation)
            for name in names
        },
        tasks=[
            keras_comet.Task(name, loss="mse", missing_label=float("nan"))
            for name in names
        ],
        tower_units=[4],
        dispatch="dense",
    )
    optimizer = keras_comet.LocalSearchOptimizer("adam", 100)
    model.compile(optimizer, run_eagerly=True)
    users = np.random.default_rng(0).choice(list("abcdefgh"), 64)
    labels = np.where(users < "d", np.nan, 1.0).astype("float32")
    data = tf.data.Dataset.from_tensor_slices(
        ({"user": users}, {"click": np.ones(64, "f4"), "rating": labels})
    ).batch(16)
    search = keras_comet.LocalSearch(data, interval=2)
    model.fit(data, callbacks=[search], verbose=0)
    assert list(search.reports) == [2, 4]
    assert all(np.isfinite(r.loss_after) for r in search.reports.values())


@pytest.mark.slow
@pytest.mark.parametrize("method", ["exchange", "sinkhorn"])
def test_logs_hold_what_was_found(method, tmp_path):
    permutation = keras_comet.ExpertPermutation(NUM_EXPERTS)
    model = make_model(permutation, method=method, search_steps=5)
    search = keras_comet.LocalSearch(make_data(), interval=2, log_dir=tmp_path)
    model.fit(make_data(), callbacks=[search], verbose=0)
    events = event_accumulator.EventAccumulator(
        str(tmp_path / "local_search"), {"tensors": 0}
    ).Reload()

    def read(tag):
        return {
            event.step: tf.make_ndarray(event.tensor_proto)
            for event in events.Tensors(f"local_search/{tag}")
        }

    distance = read(f"{permutation.name}/distance")
    assert set(distance) == {2, 4, 6}
    assert distance[6] == 0.0
    assert read(f"{permutation.name}/assignment").keys() == distance.keys()
    if method == "exchange":
        losses = read("loss_after")
        for step, report in search.reports.items():
            np.testing.assert_allclose(
                losses[step], report.loss_after, rtol=1e-6
            )
    else:
        assert 0.0 < distance[2] < 1.0


class CheckedSearch(keras.callbacks.Callback):
    """Compares each report with losses that a plain call of the model has."""

    def __init__(self, search, x, y, permutations):
        super().__init__()
        self.search, self.x, self.y = search, x, y
        self.permutations = permutations
        self.num_certified = 0

    def true_loss(self):
        predicted = np.array(self.model(self.x, training=False))
        return np.mean(np.square(predicted - self.y))

    def on_train_batch_end(self, batch, logs=None):
        [*_, report] = self.search.reports.values()
        np.testing.assert_allclose(
            report.loss_after, self.true_loss(), rtol=1e-5
        )
        if not report.is_local_optimum:
            return
        self.num_certified += 1
        for permutation in self.permutations:
            [order] = np.array(permutation.assignment)
            for i, j in itertools.combinations(range(NUM_EXPERTS), 2):
                swapped = order.copy()
                swapped[[i, j]] = order[[j, i]]
                permutation.assignment.assign([swapped])
                assert self.true_loss() >= report.loss_after * (1 - 1e-5)
            permutation.assignment.assign([order])


@pytest.mark.slow
def test_optimum_is_one_though_nothing_depended_on_anything_at_first():
    # The experts of the second mixture see what comes from the first, but
    # the loss does not, as long as the head is zero.
    permutations = [keras_comet.ExpertPermutation(NUM_EXPERTS) for _ in "ab"]
    model = keras.Sequential(
        [
            keras.Input((6,)),
            *map(make_mixture, permutations),
            keras.layers.Dense(1, kernel_initializer="zeros"),
        ]
    )
    warm_up = keras.optimizers.schedules.PiecewiseConstantDecay([1], [0.0, 0.1])
    adam = keras.optimizers.Adam(warm_up)
    optimizer = keras_comet.LocalSearchOptimizer(adam, 100)
    model.compile(optimizer, loss="mse", run_eagerly=True)
    data = make_data(num_rows=32, batch=32)
    [(x, y)] = data
    search = keras_comet.LocalSearch(data, interval=1, max_evaluations=None)
    check = CheckedSearch(search, x, y.numpy(), permutations)
    model.fit(data, epochs=6, callbacks=[search, check], verbose=0)
    assert check.num_certified >= 4
    assert any(report.moves for report in search.reports.values())


def test_search_batches_go_around_by_the_number_of_the_update():
    data = tf.data.Dataset.range(6).batch(2)
    batches = SearchBatches(data, interval=10)
    found = [batches.at(step).numpy().tolist() for step in (10, 23, 30, 40)]
    assert found == [[0, 1], [2, 3], [4, 5], [0, 1]]
    assert batches.is_due(9, 10) and batches.is_due(38, 43)
    assert not batches.is_due(10, 19)


@pytest.mark.parametrize(
    "kwargs, message",
    [
        ({"interval": 0}, "at least 1 update"),
        ({"search_data": make_data().repeat()}, "known number"),
        ({"search_data": make_data().take(0)}, "at least one batch"),
        ({"search_data": ([[1.0]], [1.0])}, "from_tensor_slices.*tuple"),
    ],
)
def test_wrong_arguments_raise(kwargs, message):
    with pytest.raises(ValueError, match=message):
        keras_comet.LocalSearch(**{"search_data": make_data(), **kwargs})


@pytest.mark.parametrize(
    "run_eagerly", [True, pytest.param(False, marks=pytest.mark.slow)]
)
def test_model_may_be_built_by_the_first_update(run_eagerly):
    mixture = make_mixture(keras_comet.ExpertPermutation(NUM_EXPERTS))
    model = keras.Sequential([mixture, keras.layers.Dense(1)])
    optimizer = keras_comet.LocalSearchOptimizer("adam", search_steps=9)
    model.compile(optimizer, "mse", run_eagerly=run_eagerly)
    search = keras_comet.LocalSearch(make_data(), interval=4)
    model.fit(make_data(), callbacks=[search], verbose=0)
    assert list(search.reports) == [4]


def test_another_optimizer_raises():
    model = keras.Sequential([keras.layers.Dense(1)])
    model.compile("sgd", loss="mse")
    with pytest.raises(ValueError, match="LocalSearchOptimizer"):
        model.fit(
            make_data(),
            callbacks=[keras_comet.LocalSearch(make_data())],
            verbose=0,
        )

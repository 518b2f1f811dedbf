"""A recommender whose tasks have experts of their own."""

import numpy as np
import pytest
import tensorflow as tf

import keras_comet
from keras_comet._keras import keras
from tests.helpers import rows

TASKS = ("click", "buy")


def dense(count):
    return [keras.layers.Dense(3, "relu") for _ in range(count)]


def make_model(gates=None, **kwargs):
    kwargs = {
        "features": {
            "user": keras_comet.CategoricalFeature(["a", "b"], 2),
            "x": keras_comet.NumericFeature(np.zeros(3), np.ones(3)),
        },
        "experts": dense(2),
        "gates": gates
        or {
            "click": keras_comet.COMETGate(3, k=2),
            "buy": keras_comet.HashGate(4),
        },
        "tasks": [keras_comet.Task(task, "mse") for task in TASKS],
        "tower_units": [],
        # In another order than the tasks.
        "task_experts": {"buy": dense(2), "click": dense(1)},
        **kwargs,
    }
    model = keras_comet.MultiGateRecommender(**kwargs)
    model.compile(keras.optimizers.SGD(0.1), run_eagerly=True)
    return model


def make_data():
    x = {"user": np.array(["a", "b", "c", "a", "b"]), "x": rows(5, 3)}
    return x, {task: rows(5, seed=i) for i, task in enumerate(TASKS)}


def test_a_task_uses_its_own_experts_and_the_shared_ones():
    model = make_model()
    x, _ = make_data()
    features = np.concatenate(
        [np.asarray(model.features[name](x[name])) for name in ("user", "x")],
        axis=-1,
    )
    weights = keras_comet.routing_weights(model, x)
    predictions = model.predict(x, verbose=0)
    for task in TASKS:
        experts = [*model.task_experts[task], *model.experts]
        kernels = [expert.get_weights() for expert in experts]
        combined = np.zeros((5, 3))
        for e, (kernel, bias) in enumerate(kernels):
            hidden = np.maximum(features @ kernel + bias, 0.0)
            combined += weights[task][:, e : e + 1] * hidden
        [(kernel, bias)] = [model.towers[task].get_weights()]
        np.testing.assert_allclose(
            predictions[task], combined @ kernel + bias, atol=1e-5
        )


@pytest.mark.slow
def test_it_trains_and_is_the_same_when_loaded_and_when_served(tmp_path):
    model = make_model()
    model.task_experts["buy"][1].trainable = False
    x, y = make_data()
    frozen = model.task_experts["buy"][1].get_weights()
    loss = model.fit(x, y, epochs=3, verbose=0).history["loss"]
    assert loss[-1] < loss[0]
    expected = model.predict(x, verbose=0)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert not again.task_experts["buy"][1].trainable
    for before, after in zip(
        frozen, again.task_experts["buy"][1].get_weights(), strict=True
    ):
        np.testing.assert_array_equal(before, after)
    keras_comet.export_saved_model(model, tmp_path / "1")
    serve = tf.saved_model.load(tmp_path / "1").signatures["serving_default"]
    served = serve(**{name: tf.constant(each) for name, each in x.items()})
    for task, each in expected.items():
        np.testing.assert_array_equal(again.predict(x, verbose=0)[task], each)
        np.testing.assert_allclose(served[task], each, atol=1e-5)


@pytest.mark.slow
def test_search_logger_and_cardinality_target_find_its_gates(tmp_path):
    permutations = {
        task: keras_comet.ExpertPermutation(n, name=task)
        for task, n in (("click", 3), ("buy", 4))
    }
    model = make_model(
        {
            task: keras_comet.COMETGate(each.num_experts, k=1, permutation=each)
            for task, each in permutations.items()
        },
        dispatch="dense",
    )
    x, y = make_data()
    logger = keras_comet.GateSparsityLogger(tmp_path, x)
    target = keras_comet.CardinalityTarget(by_epoch=1)
    model.fit(x, y, epochs=2, callbacks=[target, logger], verbose=0)
    first, *_, last = logger.history
    for task in TASKS:
        assert first[task]["cardinality"] > 1.0
        assert last[task]["cardinality"] == 1.0

    def loss():
        predictions = model(x)
        return tf.add_n(
            [
                tf.reduce_mean((predictions[task][:, 0] - y[task]) ** 2)
                for task in TASKS
            ]
        )

    before = float(loss())
    optimizer = keras_comet.LocalSearchOptimizer(keras.optimizers.SGD(0.1), 1)
    report = optimizer.search(loss, list(permutations.values()))
    assert report.loss_before == pytest.approx(before, rel=1e-5)
    assert report.loss_after == pytest.approx(float(loss()), rel=1e-5)
    assert report.is_local_optimum


def test_it_cannot_be_upcycled():
    model = make_model()
    with pytest.raises(ValueError, match="Received: task_experts=.*without"):
        keras_comet.upcycle(model, 4)


@pytest.mark.parametrize(
    ("kwargs", "match"),
    [
        ({"task_experts": {"click": dense(1)}}, "experts and a gate"),
        ({"experts": dense(3)}, "4 experts.*'click' with num_experts=3"),
    ],
)
def test_bad_construction_raises(kwargs, match):
    with pytest.raises(ValueError, match=match):
        make_model(**kwargs)

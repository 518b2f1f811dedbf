"""Weights of the tasks' losses that are learned."""

import numpy as np
import pytest
import tensorflow as tf

import keras_comet
from keras_comet import Task
from keras_comet._keras import keras
from tests.helpers import rows

X = {"x": rows(6, 3)}
Y = {"click": rows(6, seed=1), "buy": rows(6, seed=2)}
WEIGHTS = {"click": 0.5, "buy": 2.0}
LOG_VARIANCES = {"click": 0.7, "buy": -0.4}


def make_model(
    run_eagerly=True, weights=WEIGHTS, names=("click", "buy"), **kwargs
):
    kwargs = {"loss_balance": "uncertainty", **kwargs}
    keras.utils.set_random_seed(2)
    model = keras_comet.MultiGateRecommender(
        features={"x": keras_comet.NumericFeature(np.zeros(3), np.ones(3))},
        experts=keras_comet.StackedDenseExperts(2, 4),
        gates={name: keras_comet.SoftmaxGate(2) for name in names},
        tasks=[Task(name, "mse", weight=weights[name]) for name in names],
        tower_units=[],
        dispatch="dense",
        **kwargs,
    )
    model.compile(keras.optimizers.SGD(0.1), run_eagerly=run_eagerly)
    for name, uncertainty in model.uncertainties.items():
        uncertainty.log_variance.assign(LOG_VARIANCES[name])
    return model


def losses_of(model):
    predictions = model.predict(X, verbose=0)
    return {
        name: np.mean((predictions[name][:, 0] - Y[name]) ** 2) for name in Y
    }


def expected_loss(losses):
    return sum(
        np.exp(-LOG_VARIANCES[name]) * WEIGHTS[name] * losses[name]
        + LOG_VARIANCES[name]
        for name in Y
    )


def test_loss_equals_the_formula():
    model = make_model()
    losses = losses_of(model)
    found = model.evaluate(X, Y, verbose=0, return_dict=True)
    np.testing.assert_allclose(found["loss"], expected_loss(losses), rtol=1e-5)
    # Each task's own loss is reported as it is.
    for name, loss in losses.items():
        np.testing.assert_allclose(found[f"{name}_loss"], loss, rtol=1e-5)


@pytest.mark.parametrize(
    "run_eagerly", [True, pytest.param(False, marks=pytest.mark.slow)]
)
def test_log_variances_follow_their_gradient(run_eagerly):
    model = make_model(run_eagerly)
    losses = losses_of(model)
    logs = model.fit(X, Y, batch_size=6, verbose=0).history
    np.testing.assert_allclose(logs["loss"], [expected_loss(losses)], rtol=1e-5)
    for name, loss in losses.items():
        s = LOG_VARIANCES[name]
        slope = 1.0 - np.exp(-s) * WEIGHTS[name] * loss
        found = model.uncertainties[name].log_variance
        np.testing.assert_allclose(found, s - 0.1 * slope, rtol=1e-5)


def test_without_a_balance_nothing_is_learned():
    model = make_model(loss_balance=None)
    assert len(model.uncertainties) == 0
    losses = losses_of(model)
    found = model.evaluate(X, Y, verbose=0, return_dict=True)["loss"]
    expected = sum(WEIGHTS[name] * losses[name] for name in Y)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_they_are_saved_by_the_name_of_the_task(tmp_path):
    model = make_model()
    expected = model.evaluate(X, Y, verbose=0, return_dict=True)["loss"]
    model.save(tmp_path / "model.keras")
    model.save_weights(tmp_path / "model.weights.h5")
    tf.train.Checkpoint(model=model).write(str(tmp_path / "checkpoint"))
    loaded = keras.models.load_model(tmp_path / "model.keras")
    others = []
    for _ in range(2):
        others.append(make_model(names=("buy", "click")))
        for each in others[-1].uncertainties.values():
            each.log_variance.assign(5.0)
    others[0].load_weights(tmp_path / "model.weights.h5")
    status = tf.train.Checkpoint(model=others[1])
    status.read(str(tmp_path / "checkpoint")).assert_existing_objects_matched()
    for other in (loaded, *others):
        for name, value in LOG_VARIANCES.items():
            found = other.uncertainties[name].log_variance
            np.testing.assert_allclose(found, value)
        found = other.evaluate(X, Y, verbose=0, return_dict=True)["loss"]
        np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("kwargs", "match"),
    [
        ({"loss_balance": "gradnorm"}, "\"uncertainty\" or None.*'gradnorm'"),
        ({"weights": {"click": 0.0, "buy": 1.0}}, r"\['click'\] of weight 0"),
    ],
)
def test_bad_balances_raise(kwargs, match):
    with pytest.raises(ValueError, match=match):
        make_model(**kwargs)

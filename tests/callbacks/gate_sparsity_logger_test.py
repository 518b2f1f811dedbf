import functools
import pathlib
import sys

import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import TENSORS
from tensorboard.backend.event_processing.event_accumulator import (
    EventAccumulator,
)

import keras_comet
from keras_comet._keras import keras
from keras_comet.callbacks import GateSparsityLogger
from keras_comet.callbacks.usage_heatmap import to_image
from keras_comet.callbacks.usage_heatmap import usage_heatmap
from keras_comet.gates.capture import routing_weights

RNG = np.random.default_rng(0)
FEATURES = RNG.normal(size=(48, 3)).astype("float32")
LABELS = {t: RNG.normal(size=(48, 1)).astype("float32") for t in ("buy", "see")}
PROBE = FEATURES[:20]

SPARSE = {
    "cardinality",
    "sparsity",
    "normalized_entropy",
    "largest_share",
    "active_experts",
    "dead_experts",
}
# What a gate with smooth-steps keeps itself.
STATE = {"gamma_scale", "cardinality_cap"}
# What the tasks of a mixture have together.
UNION = {"union_cardinality", "largest_union", "union_cap"}


@functools.cache
def build_model():
    """Two tasks: a gate with a cap, and one without."""
    keras.utils.set_random_seed(1)
    inputs = keras.Input((3,))
    mixtures = keras_comet.MultiGateMixtureOfExperts(
        keras_comet.StackedDenseExperts(5, [4], "relu"),
        {"buy": keras_comet.COMETGate(5), "see": keras_comet.SoftmaxGate(5)},
        "dense",
    )(inputs)
    model = keras.Model(
        inputs,
        {
            task: keras.layers.Dense(1, name=task)(mixture)
            for task, mixture in mixtures.items()
        },
    )
    model.compile(keras.optimizers.SGD(0.5), {"buy": "mse", "see": "mse"})
    return model, model.get_weights()


def make_model():
    """The model as it was built, traced already if a test has trained it."""
    model, weights = build_model()
    model.set_weights(weights)
    return model


def fit(model, logger, epochs=2, **kwargs):
    return model.fit(
        FEATURES,
        LABELS,
        batch_size=16,
        epochs=epochs,
        callbacks=[logger],
        verbose=0,
        shuffle=False,
        **kwargs,
    )


def log_step_0(model, logger):
    """What `fit` does until the first batch, without its cost."""
    logger.set_model(model)
    logger.on_train_begin()
    logger.on_epoch_begin(0)
    logger.on_train_end()


def read_events(log_dir):
    """tag -> {step: value}"""
    events = EventAccumulator(
        str(pathlib.Path(log_dir) / "gates"), size_guidance={TENSORS: 0}
    )
    events.Reload()
    return {
        tag: {
            event.step: tf.make_ndarray(event.tensor_proto)
            for event in events.Tensors(tag)
        }
        for tag in events.Tags()["tensors"]
    }


def statistics_by_hand(weights, k=None):
    usage = weights.mean(axis=0)
    shares = usage[usage > 0]
    cardinality = (weights != 0).sum(axis=-1)
    active = (weights != 0).any(axis=0).sum()
    result = {
        "cardinality": cardinality.mean(),
        "sparsity": 1 - cardinality.mean() / weights.shape[1],
        "normalized_entropy": -np.sum(shares * np.log(shares))
        / np.log(weights.shape[1]),
        "largest_share": usage.max(),
        "active_experts": active,
        "dead_experts": weights.shape[1] - active,
    }
    if k is not None:
        result["within_k"] = (cardinality <= k).mean()
    return result


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A model trained with a logger, and the weights at each step."""
    tmp_path = tmp_path_factory.mktemp("logs")
    model = make_model()
    logger = GateSparsityLogger(tmp_path, PROBE)
    weights = {0: routing_weights(model, PROBE)}
    record = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: weights.update(
            {epoch + 1: routing_weights(model, PROBE)}
        )
    )
    history = model.fit(
        FEATURES, LABELS, epochs=3, callbacks=[record, logger], verbose=0
    )
    assert not any("cardinality" in name for name in history.history)
    return logger, weights, read_events(tmp_path)


def test_event_file_equals_numpy(trained):
    logger, weights, events = trained
    assert set(events) == {
        *(f"gates/buy/{name}" for name in (*SPARSE, "within_k", *STATE)),
        *(f"gates/see/{name}" for name in SPARSE),
        *(f"gates/{task}/{name}" for task in LABELS for name in UNION),
        "gates/buy/expert_usage",
        "gates/see/expert_usage",
        "gates/expert_usage",
    }
    assert logger.steps == [0, 1, 2, 3]
    for step, by_task in weights.items():
        for task, k in (("buy", 2), ("see", None)):
            expected = statistics_by_hand(by_task[task], k)
            logged = logger.history[step][task]
            assert set(logged) == {*expected, *(STATE if k else ()), *UNION}
            assert {name: logged[name] for name in expected} == pytest.approx(
                expected, abs=1e-5
            )
            for name, value in expected.items():
                assert events[f"gates/{task}/{name}"][step] == pytest.approx(
                    value, abs=1e-5
                )
    # Training moved the gates, so that the steps differ.
    assert len({h["see"]["largest_share"] for h in logger.history}) == 4


def test_union_of_the_tasks_is_logged_for_the_weights_that_are_used(tmp_path):
    model = make_model()
    [mixture] = [
        layer
        for layer in model.layers
        if isinstance(layer, keras_comet.MultiGateMixtureOfExperts)
    ]
    for cap in (5, 3):
        mixture.union_cap.assign(cap)
        logger = GateSparsityLogger(tmp_path / str(cap), PROBE)
        log_step_0(model, logger)
        weights = routing_weights(model, PROBE)
        union = np.any([each != 0 for each in weights.values()], axis=0)
        for task in LABELS:
            logged = logger.history[0][task]
            assert logged["union_cardinality"] == union.sum(-1).mean() == cap
            assert logged["largest_union"] == logged["union_cap"] == cap
            cardinality = (weights[task] != 0).sum(axis=-1).mean()
            assert logged["cardinality"] == pytest.approx(cardinality)


def test_histogram_holds_every_expert(trained):
    _, weights, events = trained
    for step, by_task in weights.items():
        usage = by_task["see"].mean(axis=0)
        # (buckets, [left edge, right edge, count])
        buckets = events["gates/see/expert_usage"][step]
        assert buckets[:, 2].sum() == 5
        assert buckets[0, 0] == pytest.approx(usage.min(), abs=1e-5)
        assert buckets[-1, 1] == pytest.approx(usage.max(), abs=1e-5)


def test_image_can_be_decoded(trained):
    _, _, events = trained
    width, height, png = events["gates/expert_usage"][3]
    image = tf.io.decode_png(png).numpy()
    assert image.shape[:2] == (int(height), int(width))
    assert len(np.unique(image.reshape(-1, image.shape[-1]), axis=0)) > 10


@pytest.mark.slow
def test_training_is_the_same_with_and_without(tmp_path):
    weights = []
    for callback in (
        keras.callbacks.Callback(),
        GateSparsityLogger(tmp_path, PROBE),
    ):
        model = make_model()
        fit(model, callback)
        weights.append(model.get_weights())
    for one, other in zip(*weights, strict=True):
        np.testing.assert_array_equal(one, other)


def make_small_model():
    keras.utils.set_random_seed(1)
    moe = keras_comet.MixtureOfExperts(
        [keras.layers.Dense(1) for _ in range(2)],
        keras_comet.SoftmaxGate(2, name="gate"),
        name="moe",
    )
    model = keras.Sequential([keras.Input((3,)), moe])
    model.compile("sgd", "mse", metrics=["mae"], run_eagerly=True)
    return model


# Two batches with labels, as a spread needs.
ABLATION_DATA = (
    tf.data.Dataset.from_tensor_slices((FEATURES, LABELS["buy"]))
    .take(8)
    .batch(4)
)


def test_ablation_and_similarity_are_logged(tmp_path):
    model = make_small_model()
    log_step_0(model, GateSparsityLogger(tmp_path, PROBE, 1, ABLATION_DATA))
    report = keras_comet.routing_ablation(model, ABLATION_DATA)
    events = read_events(tmp_path)
    for name, difference in report.gates["gate"].differences.items():
        assert events[f"gates/gate/ablation/{name}"][0] == pytest.approx(
            difference.mean
        )
    *_, png = events["gates/moe/expert_similarity"][0]
    colours = tf.io.decode_png(png).numpy().reshape(-1, 4)
    assert len(np.unique(colours, axis=0)) > 10


def test_training_is_the_same_with_and_without_ablation(tmp_path):
    results = []
    for callback in (
        keras.callbacks.Callback(),
        GateSparsityLogger(tmp_path, PROBE, 1, ABLATION_DATA),
    ):
        model = make_small_model()
        history = model.fit(
            FEATURES[:8],
            LABELS["buy"][:8],
            batch_size=4,
            epochs=2,
            shuffle=False,
            verbose=0,
            callbacks=[callback],
        )
        results.append([*model.get_weights(), *history.history.values()])
    for one, other in zip(*results, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.slow
def test_state_of_the_gate_is_logged_in_any_order_of_callbacks(tmp_path):
    histories = []
    for order in (1, -1):
        model = make_model()
        target = keras_comet.CardinalityTarget(by_epoch=2)
        logger = GateSparsityLogger(tmp_path / f"{order}", PROBE)
        callbacks = [target, logger][::order]
        model.fit(FEATURES, LABELS, epochs=3, verbose=0, callbacks=callbacks)
        histories.append([each["buy"] for each in logger.history])
    # After the second epoch the one that is called first comes first.
    for step in (0, 1, 3):
        assert histories[0][step] == histories[1][step]
    assert [each["cardinality_cap"] for each in histories[0]] == [5, 5, 2, 2]
    events = read_events(tmp_path / "1")
    for step, cardinality in events["gates/buy/cardinality"].items():
        assert (cardinality <= 2.0) == (step >= 2)
    assert all(
        scale == 1.0 for scale in events["gates/buy/gamma_scale"].values()
    )
    assert events["gates/buy/within_k"][2] == 1.0
    assert "gates/see/gamma_scale" not in events


def test_frequency_skips_epochs_and_steps_go_on_when_resumed(tmp_path):
    model = make_model()
    logger = GateSparsityLogger(tmp_path, PROBE, frequency=2)
    fit(model, logger, epochs=5)
    assert logger.steps == [0, 2, 4]
    fit(model, logger, epochs=6, initial_epoch=5)
    assert logger.steps == [0, 2, 4, 5, 6]
    assert len(logger.history) == 5
    assert set(read_events(tmp_path)["gates/buy/cardinality"]) == {
        *logger.steps
    }


def test_first_batch_of_a_data_set_is_the_probe(tmp_path):
    pairs = tf.data.Dataset.from_tensor_slices((FEATURES, LABELS)).batch(20)
    alone = tf.data.Dataset.from_tensor_slices(FEATURES).batch(20)
    model = make_model()
    histories = []
    for probe in (PROBE, pairs, alone):
        logger = GateSparsityLogger(tmp_path, probe)
        log_step_0(model, logger)
        histories.append(logger.history)
    assert len(histories[0]) == 1
    for task in ("buy", "see"):
        expected, *others = (each[0][task] for each in histories)
        for other in others:
            assert other == pytest.approx(expected, abs=0, rel=0, nan_ok=True)


@pytest.mark.slow
def test_model_that_is_not_built_has_no_step_0(tmp_path):
    class Subclassed(keras.Model):
        def __init__(self):
            super().__init__()
            self.moe = keras_comet.MixtureOfExperts(
                [keras.layers.Dense(1) for _ in range(4)],
                keras_comet.HashGate(4, name="gate"),
            )

        def call(self, inputs):
            return self.moe((inputs["x"], inputs["user"]))

    users = np.array([["ann"], ["bob"]])[np.arange(48) % 2]
    model = Subclassed()
    model.compile("sgd", "mse")
    logger = GateSparsityLogger(tmp_path, {"x": PROBE, "user": users[:20]})
    data = tf.data.Dataset.from_tensor_slices(
        ({"x": FEATURES, "user": users}, LABELS["buy"])
    )
    was_built = []
    seen = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: was_built.append(model.built)
    )
    model.fit(data.batch(16), epochs=1, verbose=0, callbacks=[seen, logger])
    # Keras 3 builds a model before the first epoch, Keras 2 in it.
    assert logger.steps == ([0, 1] if was_built[0] else [1])
    assert logger.history[-1]["gate"]["within_k"] == 1.0
    assert logger.history[-1]["gate"]["cardinality"] == 1.0


def test_works_next_to_the_tensorboard_callback(tmp_path):
    with tf.summary.record_if(False):
        log_step_0(make_model(), GateSparsityLogger(tmp_path, PROBE))
    assert set(read_events(tmp_path)["gates/see/sparsity"]) == {0}


def test_diverged_model_is_logged(tmp_path):
    model = make_model()
    model.set_weights(
        [
            np.full_like(w, np.nan) if w.dtype.kind == "f" else w
            for w in model.get_weights()
        ]
    )
    logger = GateSparsityLogger(tmp_path, PROBE)
    log_step_0(model, logger)
    assert logger.history[-1]["see"]["dead_experts"] == 5.0
    assert np.isnan(logger.history[-1]["see"]["cardinality"])


def test_heatmap_has_labelled_axes_and_a_colour_bar():
    figure = usage_heatmap({"buy": np.ones(3) / 3, "see": np.ones(5) / 5})
    axes, bar = figure.axes
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("expert", "task")
    assert bar.get_ylabel() == "expert usage"
    assert [t.get_text() for t in axes.get_yticklabels()] == ["buy", "see"]
    cells = axes.images[0].get_array()
    np.testing.assert_allclose(cells[0, :3], 1 / 3)
    np.testing.assert_allclose(cells[1], 1 / 5)
    assert cells.mask[0].tolist() == [False] * 3 + [True] * 2
    image = to_image(figure)
    assert image.dtype == np.uint8 and image.ndim == 3


def test_heatmap_of_many_experts_has_bounded_size():
    usage = {f"task {i}": np.ones(2000) / 2000 for i in range(200)}
    assert max(usage_heatmap(usage).get_size_inches()) <= 30


def test_pyplot_is_not_used(tmp_path):
    loaded = "matplotlib.pyplot" in sys.modules
    to_image(usage_heatmap({"buy": np.ones(3) / 3}))
    assert ("matplotlib.pyplot" in sys.modules) == loaded


@pytest.mark.parametrize("missing", ["matplotlib", "tensorboard"])
def test_missing_extra_says_what_to_install(tmp_path, monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ImportError, match=r"keras-comet\[tensorboard\]"):
        GateSparsityLogger(tmp_path, PROBE)


def test_bad_arguments_raise(tmp_path):
    with pytest.raises(ValueError, match="Received: frequency=0"):
        GateSparsityLogger(tmp_path, PROBE, frequency=0)
    empty = tf.data.Dataset.from_tensor_slices(FEATURES[:0]).batch(4)
    with pytest.raises(ValueError, match="at least one batch"):
        GateSparsityLogger(tmp_path, empty)


def test_model_without_gate_raises(tmp_path):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    logger = GateSparsityLogger(tmp_path, PROBE)
    with pytest.raises(ValueError, match="called no gate"):
        model.fit(FEATURES, LABELS["buy"], callbacks=[logger], verbose=0)

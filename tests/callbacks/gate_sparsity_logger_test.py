import numpy as np
import tensorflow as tf
from tensorboard.backend.event_processing import event_accumulator

import keras_comet
from keras_comet._keras import keras


def make_model():
    inputs = keras.Input((6,))
    mixtures = keras_comet.MultiGateMixtureOfExperts(
        [keras.layers.Dense(3) for _ in range(4)],
        {"a": keras_comet.TopKGate(4, k=2), "b": keras_comet.COMETGate(4)},
    )(inputs)
    outputs = {t: keras.layers.Dense(1)(m) for t, m in mixtures.items()}
    model = keras.Model(inputs, outputs)
    model.compile("sgd", {"a": "mse", "b": "mse"})
    return model


def test_event_file_holds_what_the_gates_did(tmp_path):
    model = make_model()
    x = np.random.default_rng(0).normal(size=(32, 6)).astype("float32")
    logger = keras_comet.GateSparsityLogger(tmp_path, x)
    y = {"a": x[:, :1], "b": x[:, 1:2]}
    model.fit(x, y, epochs=2, callbacks=[logger], verbose=0)
    events = event_accumulator.EventAccumulator(
        str(tmp_path / "gates"), {event_accumulator.TENSORS: 0}
    )
    events.Reload()
    # Where pictures and histograms are filed differs between TensorBoards.
    tags = {
        tag
        for kind in events.Tags().values()
        if isinstance(kind, list)
        for tag in kind
    }
    assert {"gates/expert_usage", "gates/a/expert_usage"} <= tags
    last = events.Tensors("gates/a/cardinality")[-1]
    np.testing.assert_allclose(tf.make_ndarray(last.tensor_proto), 2.0)
    weights = keras_comet.routing_weights(model, x)
    # The state at the start, and one entry for each epoch.
    assert len(logger.history) == 3
    np.testing.assert_allclose(
        logger.history[-1]["b"]["cardinality"],
        (weights["b"] > 0).sum(axis=1).mean(),
        rtol=1e-6,
    )

import pathlib
import subprocess
import sys

import numpy as np
import pytest

import keras_comet
from keras_comet._keras import keras

SERVE = pathlib.Path(__file__).parents[2] / "examples" / "serve.py"


def make_model(gate):
    return keras_comet.MultiGateRecommender(
        features={
            "user": keras_comet.CategoricalFeature(["ann", "bob"], 4),
            "age": keras_comet.NumericFeature(30.0, 100.0),
        },
        experts=[keras.layers.Dense(6, "relu") for _ in range(5)],
        gates={"click": gate(), "rating": gate()},
        tasks=[
            keras_comet.Task("click", "mse"),
            keras_comet.Task("rating", "mse"),
        ],
    )


@pytest.mark.parametrize(
    "gate",
    [
        lambda: keras_comet.COMETGate(5, permutation=None),
        lambda: keras_comet.HashGate(5, num_ids=3),
    ],
)
def test_served_without_the_package_equals_keras(gate, tmp_path):
    model = make_model(gate)
    path = keras_comet.export_saved_model(model, tmp_path / "served")
    inputs = {
        "user": np.array(["bob", "new", "ann"]),
        "age": np.array([20.0, 30.0, 50.0], "float32"),
    }
    np.savez(tmp_path / "in.npz", **inputs)
    subprocess.run(
        [
            sys.executable,
            str(SERVE),
            str(path),
            str(tmp_path / "in.npz"),
            str(tmp_path / "out.npz"),
        ],
        check=True,
        cwd=tmp_path,
    )
    served = np.load(tmp_path / "out.npz")
    expected = model.predict(inputs, verbose=0)
    assert set(served) == {"click", "rating"}
    for task, values in expected.items():
        np.testing.assert_allclose(served[task], values, atol=1e-5)
    graph = (path / "saved_model.pb").read_bytes()
    assert b"PyFunc" not in graph


def test_existing_path_is_left_alone(tmp_path):
    model = make_model(lambda: keras_comet.TopKGate(5))
    (tmp_path / "served").write_text("mine")
    with pytest.raises(ValueError, match="nothing is overwritten"):
        keras_comet.export_saved_model(model, tmp_path / "served")
    assert (tmp_path / "served").read_text() == "mine"


def test_hard_routing_is_restored(tmp_path):
    model = make_model(lambda: keras_comet.COMETGate(5))
    keras_comet.export_saved_model(model, tmp_path / "hard", hard_routing=True)
    assert not any(g.hard_routing for g in model.mixture.gates.values())

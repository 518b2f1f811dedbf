"""OpenVINO serves an export with integer ids and dense dispatch."""

import numpy as np
import pytest

import keras_comet

openvino = pytest.importorskip(
    "openvino", reason="the extra `openvino` is not installed"
)


def test_scores_are_those_of_keras(tmp_path):
    model = keras_comet.MultiGateRecommender(
        {
            "user": keras_comet.CategoricalFeature([3, 5, 7], 8),
            "age": keras_comet.NumericFeature(40.0, 100.0),
        },
        keras_comet.StackedDenseExperts(4, 8, "relu"),
        {
            "click": keras_comet.COMETGate(4),
            "rating": keras_comet.TopKGate(4),
        },
        [
            keras_comet.Task("click", "mse"),
            keras_comet.Task("rating", "mse"),
        ],
        dispatch="dense",
    )
    inputs = {
        "user": np.array([3, 7, 9]),
        "age": np.array([31.0, np.nan, 50.0], "float32"),
    }
    path = tmp_path / "1"
    keras_comet.export_saved_model(model, path)
    converted = openvino.convert_model(path)
    converted.reshape({name: [3] for name in inputs})
    served = openvino.Core().compile_model(converted, "CPU")(inputs)
    for task, expected in model.predict(inputs, verbose=0).items():
        np.testing.assert_allclose(served[task], expected, atol=1e-5)

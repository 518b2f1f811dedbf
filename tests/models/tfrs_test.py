"""TensorFlow Recommenders, which exists for Keras 2 alone."""

import os
import pathlib
import subprocess
import sys
import textwrap

import pytest

ROOT = pathlib.Path(__file__).parents[2]

PROGRAM = textwrap.dedent(
    """
    import tempfile

    import numpy as np
    import tensorflow as tf
    import tensorflow_recommenders as tfrs
    import tf_keras as keras
    import keras_comet

    class Ranking(tfrs.Model):
        def __init__(self):
            super().__init__()
            self.embed = keras_comet.CategoricalFeature(["a", "b"], 4)
            self.mixture = keras_comet.MultiGateMixtureOfExperts(
                [keras.layers.Dense(6, "relu") for _ in range(5)],
                {
                    "click": keras_comet.COMETGate(5, entropy_weight=0.1),
                    "rating": keras_comet.TopKGate(
                        5, permutation=keras_comet.ExpertPermutation(5)
                    ),
                },
            )
            self.towers = {
                t: keras.layers.Dense(1) for t in ("click", "rating")
            }
            self.tasks = {
                t: tfrs.tasks.Ranking(loss=keras.losses.MeanSquaredError())
                for t in ("click", "rating")
            }

        def call(self, inputs):
            # Features and labels in one dict, as in the tutorials.
            mixtures = self.mixture(self.embed(inputs["user"]))
            return {t: self.towers[t](m) for t, m in mixtures.items()}

        def compute_loss(self, inputs, training=False):
            outputs = self(inputs, training=training)
            return tf.add_n(
                [
                    task(labels=inputs[t], predictions=outputs[t])
                    for t, task in self.tasks.items()
                ]
            )

    keras.utils.set_random_seed(0)
    x = {"user": np.array(["a", "b", "new"] * 8)}
    y = {
        t: np.tile(np.float32([1.0, -1.0, 0.5]), 8)[:, None]
        for t in ("click", "rating")
    }
    model = Ranking()
    model.compile(
        keras_comet.LocalSearchOptimizer(keras.optimizers.Adam(0.05), 20)
    )
    data = tf.data.Dataset.from_tensor_slices({**x, **y}).batch(24)
    search = keras_comet.LocalSearch(data, interval=10)
    history = model.fit(
        data, epochs=30, callbacks=[search], verbose=0
    ).history
    # The loss of the eleventh update is that which the search left.
    assert list(search.reports) == [10, 20], search.reports
    np.testing.assert_allclose(
        history["loss"][10], search.reports[10].loss_after, rtol=1e-4
    )
    assert search.reports[10].moves > 0
    assert history["total_loss"][-1] < 0.5 * history["total_loss"][0], history
    assert history["regularization_loss"][0] > 0.0
    assert model.evaluate(data, return_dict=True, verbose=0)["total_loss"] < 1.0
    print("trained")

    directory = tempfile.mkdtemp()
    try:
        keras_comet.export_saved_model(model, directory + "/1")
    except ValueError as error:
        print(error)
    signature = {"user": tf.TensorSpec([None], tf.string)}
    keras_comet.export_saved_model(
        model, directory + "/1", input_signature=signature
    )
    loaded = tf.saved_model.load(directory + "/1")
    serve = loaded.signatures["serving_default"]
    assert set(serve.structured_input_signature[1]) == {"user"}
    served = serve(user=tf.constant(["a", "new"]))
    expected = model({"user": tf.constant(["a", "new"])})
    assert set(served) == set(expected) == {"click", "rating"}
    for task, values in expected.items():
        np.testing.assert_allclose(served[task], values, atol=1e-6)
    print("exported")
    """
)


@pytest.mark.slow
def test_tensorflow_recommenders_model_trains_and_exports():
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "TF_USE_LEGACY_KERAS": "1",
    }
    output = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert output.returncode == 0, output.stderr[-3000:]
    trained, message, exported = output.stdout.strip().split("\n")
    assert (trained, exported) == ("trained", "exported")
    assert message.endswith(
        "leave labels and weights out: input_signature={"
        "'user': tf.TensorSpec([None], tf.string), "
        "'click': tf.TensorSpec([None, 1], tf.float32), "
        "'rating': tf.TensorSpec([None, 1], tf.float32)}"
    )

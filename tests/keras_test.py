"""Which Keras is chosen, and what is said when none can be."""

import pytest

from tests.helpers import run_script

IMPORT = "import keras_comet; print(keras_comet._keras.keras.__version__[0])"


@pytest.mark.parametrize(("legacy", "version"), [("1", "2"), ("0", "3")])
def test_environment_chooses_the_keras(legacy, version):
    finished = run_script(IMPORT, TF_USE_LEGACY_KERAS=legacy)
    assert finished.stdout.strip() == version, finished.stderr


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_another_backend_gives_a_clear_error(backend):
    finished = run_script(IMPORT, KERAS_BACKEND=backend, TF_USE_LEGACY_KERAS="")
    assert finished.returncode != 0
    assert "Set KERAS_BACKEND=tensorflow" in finished.stderr
    assert repr(backend) in finished.stderr


@pytest.mark.parametrize(
    ("module", "legacy", "remedy"),
    [
        ("tensorflow", "0", "pip install 'tensorflow"),
        ("tf_keras", "1", "pip install tf_keras"),
    ],
)
def test_missing_package_gives_the_command(module, legacy, remedy):
    script = f"import sys; sys.modules[{module!r}] = None\n{IMPORT}"
    finished = run_script(script, TF_USE_LEGACY_KERAS=legacy)
    assert finished.returncode != 0
    assert remedy in finished.stderr


def test_environment_changed_too_late_gives_a_clear_error():
    script = (
        "import os, tensorflow as tf; tf.keras.layers.Layer\n"
        f"os.environ['TF_USE_LEGACY_KERAS'] = '1'\n{IMPORT}"
    )
    finished = run_script(script, TF_USE_LEGACY_KERAS="0")
    assert finished.returncode != 0
    assert "before TensorFlow is imported" in finished.stderr

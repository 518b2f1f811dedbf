"""Which Keras is chosen, and what is said when none can be."""

import json

import pytest

from tests.helpers import run_script

IMPORT = "import keras_comet; print(keras_comet._keras.keras.__version__[0])"

# What goes wrong -> the environment, and what comes before the import.
MISTAKES = {
    "no tensorflow": ({}, "sys.modules['tensorflow'] = None"),
    "no tf_keras": (
        {"TF_USE_LEGACY_KERAS": "1"},
        "sys.modules['tf_keras'] = None",
    ),
    "too late": (
        {},
        "import tensorflow as tf; tf.keras.layers.Layer;"
        "os.environ['TF_USE_LEGACY_KERAS'] = '1'",
    ),
}

# Children of one process, as importing TensorFlow takes longest.
SCRIPT = """
import json
import os
import sys

import tensorflow

for environment, before in json.loads(sys.argv[1]):
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        os.environ.update(environment)
        try:
            exec(before)
            import keras_comet
        except BaseException:
            sys.excepthook(*sys.exc_info())
            os._exit(1)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    print(os.waitstatus_to_exitcode(status), file=sys.stderr)
    print("END", file=sys.stderr)
"""


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


@pytest.fixture(scope="module")
def errors():
    """What each mistake makes Python say, and the exit status after it."""
    finished = run_script(
        SCRIPT, json.dumps(list(MISTAKES.values())), TF_USE_LEGACY_KERAS="0"
    )
    assert finished.returncode == 0, finished.stderr
    errors = finished.stderr.split("END\n")
    assert errors.pop() == ""
    return dict(zip(MISTAKES, errors, strict=True))


@pytest.mark.parametrize(
    ("mistake", "remedy"),
    [
        ("no tensorflow", "pip install 'tensorflow"),
        ("no tf_keras", "pip install tf_keras"),
    ],
)
def test_missing_package_gives_the_command(errors, mistake, remedy):
    assert errors[mistake].endswith("\n1\n")
    assert remedy in errors[mistake]


def test_environment_changed_too_late_gives_a_clear_error(errors):
    assert errors["too late"].endswith("\n1\n")
    assert "before TensorFlow is imported" in errors["too late"]

"""Which Keras is chosen, and what is said when none can be, or is too new."""

import json

import numpy as np
import pytest

from tests.helpers import run_script

IMPORT = "import keras_comet"

# Predicts with the weights in one file, and saves them to another.
WEIGHTS = """
import sys
import numpy as np
from keras_comet._keras import keras
import keras_comet

moe = keras_comet.MixtureOfExperts(
    [keras.layers.Dense(3) for _ in range(4)],
    keras_comet.COMETGate(
        4, permutation=keras_comet.ExpertPermutation(4)
    ),
)
inputs = keras.Input((6,))
model = keras.Model(inputs, moe(inputs))
source, target = sys.argv[1:]
if source != "none":
    model.load_weights(source)
else:
    moe.gate.permutation.assignment.assign([[2, 0, 3, 1]])
model.save_weights(target)
x = np.linspace(-1, 1, 30, dtype="float32").reshape(5, 6)
print(keras.__version__[0], np.asarray(model(x)).tolist())
"""

# A case -> the environment, and what comes before the import.
CASES = {
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
    "newer": (
        {},
        "tensorflow.__version__ = '2.100.0-rc1';"
        "import keras; keras.__version__ = '3.99.0'",
    ),
    "older": ({}, "tensorflow.__version__ = '2.9.3'"),
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


@pytest.fixture(scope="module")
def processes(tmp_path_factory):
    """Keras 3 gives weights to tf_keras, which gives them back."""
    directory = tmp_path_factory.mktemp("weights")
    first, second = (str(directory / f"{i}.weights.h5") for i in (1, 2))
    return [
        run_script(WEIGHTS, source, target, TF_USE_LEGACY_KERAS=legacy)
        for source, target, legacy in (
            ("none", first, "0"),
            (first, second, "1"),
            (second, first, "0"),
        )
    ]


@pytest.mark.slow
@pytest.mark.parametrize(("index", "version"), [(0, "3"), (1, "2")])
def test_environment_chooses_the_keras(processes, index, version):
    finished = processes[index]
    assert finished.stdout.startswith(version + " "), finished.stderr


@pytest.mark.slow
def test_weights_file_moves_between_the_two_kerases(processes):
    outputs = []
    for finished, version in zip(processes, "323", strict=True):
        assert finished.returncode == 0, finished.stderr
        assert finished.stdout.startswith(version)
        outputs.append(np.array(eval(finished.stdout[2:])))
    np.testing.assert_allclose(outputs[1], outputs[0], atol=1e-6)
    np.testing.assert_allclose(outputs[2], outputs[0], atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_another_backend_gives_a_clear_error(backend):
    finished = run_script(IMPORT, KERAS_BACKEND=backend, TF_USE_LEGACY_KERAS="")
    assert finished.returncode != 0
    assert "Set KERAS_BACKEND=tensorflow" in finished.stderr
    assert repr(backend) in finished.stderr


@pytest.fixture(scope="module")
def said():
    """What each case makes Python say, and the exit status after it."""
    finished = run_script(
        SCRIPT, json.dumps(list(CASES.values())), TF_USE_LEGACY_KERAS="0"
    )
    assert finished.returncode == 0, finished.stderr
    said = finished.stderr.split("END\n")
    assert said.pop() == ""
    return dict(zip(CASES, said, strict=True))


@pytest.mark.parametrize(
    ("mistake", "remedy"),
    [
        ("no tensorflow", "pip install 'tensorflow"),
        ("no tf_keras", "pip install tf_keras"),
    ],
)
def test_missing_package_gives_the_command(said, mistake, remedy):
    assert said[mistake].endswith("\n1\n")
    assert remedy in said[mistake]


def test_environment_changed_too_late_gives_a_clear_error(said):
    assert said["too late"].endswith("\n1\n")
    assert "before TensorFlow is imported" in said["too late"]


def test_newer_versions_than_those_tested_give_one_warning(said):
    assert said["newer"].endswith("\n0\n")
    assert said["newer"].count("UserWarning: ") == 1
    assert "tensorflow 2.100.0-rc1 and keras 3.99.0" in said["newer"]
    # It points at the import of the package.
    assert said["newer"].startswith("<string>:15: UserWarning")


def test_versions_that_were_tested_give_no_warning(said):
    assert said["older"] == "0\n"

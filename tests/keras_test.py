"""Which Keras is chosen, and what is said when none can be."""

import json

import numpy as np
import pytest

from tests.helpers import run_script

IMPORT = "import keras_comet"

# Predicts with the weights in one file, and saves them to another.
WEIGHTS = """
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
source, target = {source!r}, {target!r}
if source:
    model.load_weights(source)
else:
    moe.gate.permutation.assignment.assign([[2, 0, 3, 1]])
model.save_weights(target)
x = np.linspace(-1, 1, 30, dtype="float32").reshape(5, 6)
print(keras.__version__[0], np.asarray(model(x)).tolist())
"""

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

for environment, program in json.loads(sys.argv[1]):
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        os.environ.update(environment)
        try:
            exec(program, {"os": os, "sys": sys})
            sys.stdout.flush()
        except BaseException:
            sys.excepthook(*sys.exc_info())
            os._exit(1)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print("END", flush=True)
    print(status, "END", sep="\\n", file=sys.stderr, flush=True)
"""


@pytest.fixture(scope="module")
def processes(tmp_path_factory):
    """The output and the errors of each process, with its exit status last.

    Keras 3 gives weights to tf_keras, which gives them back.
    """
    directory = tmp_path_factory.mktemp("weights")
    first, second = (str(directory / f"{i}.weights.h5") for i in (1, 2))
    programs = {
        name: ({"TF_USE_LEGACY_KERAS": legacy}, WEIGHTS.format(**files))
        for name, legacy, files in (
            ("Keras 3", "0", {"source": "", "target": first}),
            ("Keras 2", "1", {"source": first, "target": second}),
            ("and back", "0", {"source": second, "target": first}),
        )
    }
    for name, (environment, before) in MISTAKES.items():
        programs[name] = (environment, f"{before}\n{IMPORT}")
    finished = run_script(
        SCRIPT, json.dumps(list(programs.values())), TF_USE_LEGACY_KERAS=""
    )
    assert finished.returncode == 0, finished.stderr
    outputs, errors = (
        text.split("END\n") for text in (finished.stdout, finished.stderr)
    )
    assert outputs.pop() == errors.pop() == ""
    return {
        name: (output, error)
        for name, output, error in zip(programs, outputs, errors, strict=True)
    }


@pytest.mark.parametrize(
    ("name", "version"), [("Keras 3", "3"), ("Keras 2", "2")]
)
def test_environment_chooses_the_keras(processes, name, version):
    output, errors = processes[name]
    assert output.startswith(version + " "), errors


def test_weights_file_moves_between_the_two_kerases(processes):
    found = []
    for name in ("Keras 3", "Keras 2", "and back"):
        output, errors = processes[name]
        assert errors.endswith("0\n"), errors
        found.append(np.array(eval(output[2:])))
    np.testing.assert_allclose(found[1], found[0], atol=1e-6)
    np.testing.assert_allclose(found[2], found[0], atol=1e-6)


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_another_backend_gives_a_clear_error(backend):
    # A process of its own, as importing TensorFlow settles the backend.
    finished = run_script(IMPORT, KERAS_BACKEND=backend, TF_USE_LEGACY_KERAS="")
    assert finished.returncode != 0
    assert "Set KERAS_BACKEND=tensorflow" in finished.stderr
    assert repr(backend) in finished.stderr


@pytest.mark.parametrize(
    ("mistake", "remedy"),
    [
        ("no tensorflow", "pip install 'tensorflow"),
        ("no tf_keras", "pip install tf_keras"),
    ],
)
def test_missing_package_gives_the_command(processes, mistake, remedy):
    _, errors = processes[mistake]
    assert errors.endswith("\n1\n")
    assert remedy in errors


def test_environment_changed_too_late_gives_a_clear_error(processes):
    _, errors = processes["too late"]
    assert errors.endswith("\n1\n")
    assert "before TensorFlow is imported" in errors

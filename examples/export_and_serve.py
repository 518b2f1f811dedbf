"""Exports a model, and predicts with it in a process without the package."""

import pathlib
import shutil
import subprocess
import sys
from typing import Any

import numpy as np
import tensorflow as tf

import keras_comet


def export_and_serve(
    model: Any,
    inputs: dict[str, np.ndarray],
    directory: pathlib.Path,
    name: str,
) -> dict[str, np.ndarray]:
    """Exports, serves by `serve.py`, and prints how far it is from Keras.

    Args:
        model: Keras model that returns a dict.
        inputs: dict from input name to array.
        directory: path. Where to put the export, `inputs.npz` and
            `outputs.npz`.
        name: str. Path of the export in there.

    Returns:
        What was served, by output name.
    """
    path = directory / name
    # The one thing replaced by a second run; it was made by the first.
    shutil.rmtree(path, ignore_errors=True)
    keras_comet.export_saved_model(model, path)
    np.savez(directory / "inputs.npz", **inputs)
    subprocess.run(
        [
            sys.executable,
            str(pathlib.Path(__file__).with_name("serve.py").resolve()),
            str(path.resolve()),
            str((directory / "inputs.npz").resolve()),
            str((directory / "outputs.npz").resolve()),
        ],
        check=True,
        cwd=directory,
    )
    served = dict(np.load(directory / "outputs.npz"))
    expected = model({name: tf.constant(v) for name, v in inputs.items()})
    worst = max(np.abs(served[task] - v).max() for task, v in expected.items())
    print(f"\nSavedModel: {path}, largest difference to Keras {worst:.1e}")
    return served

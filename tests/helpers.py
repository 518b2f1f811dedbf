"""What several tests need: variables for a tape, and other processes."""

import contextlib
import os
import pathlib
import resource
import signal
import subprocess
import sys
import textwrap

import numpy as np
import tensorflow as tf

from keras_comet._keras import KERAS_3

ROOT = pathlib.Path(__file__).parents[1]


def variables(weights):
    """The TensorFlow variables behind Keras weights, for a tape."""
    return [weight.value if KERAS_3 else weight for weight in weights]


def rows(batch, *shape, seed=0):
    """Standard normal float32 features."""
    values = np.random.default_rng(seed).normal(size=(batch, *shape))
    return values.astype("float32")


def gradients(function, sources):
    """The value of a function, and gradients: zeros where not connected."""
    with tf.GradientTape() as tape:
        for source in sources:
            if not isinstance(source, tf.Variable):
                tape.watch(source)
        value = function()
    return value, tape.gradient(
        value, sources, unconnected_gradients=tf.UnconnectedGradients.ZERO
    )


def assert_gradients_close(found, expected, tolerance=1e-5):
    """Compares gradients, each relative to its own largest entry."""
    for ours, theirs in zip(found, expected, strict=True):
        ours, theirs = (
            np.asarray(tf.convert_to_tensor(g)) for g in (ours, theirs)
        )
        scale = max(1e-3, np.abs(theirs).max(initial=0.0))
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance * scale)


def run_script(script, *arguments, **environment):
    """Runs Python code in another process, which imports this package."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *arguments],
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "TF_CPP_MIN_LOG_LEVEL": "2",
            **environment,
        },
        capture_output=True,
        text=True,
    )


def run_program(*arguments):
    """Runs a program of the repository, and returns what it prints."""
    return subprocess.run(
        [sys.executable, *arguments],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=ROOT,
    ).stdout


@contextlib.contextmanager
def largest_file(size):
    """Lets the disk seem full: longer files cannot be written."""
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)

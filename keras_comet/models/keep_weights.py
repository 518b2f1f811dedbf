"""Leaves a model as it was where its weights cannot be read."""

import contextlib
import os
import zipfile
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

# What readers of HDF5 and zip files raise for a damaged one.
_UNREADABLE = (
    AttributeError,
    LookupError,
    OSError,
    RuntimeError,
    zipfile.BadZipFile,
)


@contextlib.contextmanager
def keep_weights(model: Any, path: str | os.PathLike[str]) -> Iterator[None]:
    """Puts the weights back after an error, and says that it did.

    Args:
        model: Keras model.
        path: str or path. The file that is read.

    Raises:
        ValueError: If the file is damaged.
    """
    before = [
        (weight, tf.identity(tf.convert_to_tensor(weight)))
        for weight in model.weights
    ]
    try:
        yield
    except Exception as error:
        for weight, value in before:
            weight.assign(value)
        is_damaged = isinstance(error, _UNREADABLE)
        if not is_damaged or isinstance(error, FileNotFoundError):
            raise
        raise ValueError(
            f"The weights in {os.fspath(path)!r} cannot be read, and those of "
            f"model {model.name!r} are as before. Expected: a whole file that "
            "`save_weights` wrote. Save it again, or load an earlier one. "
            f"Received: {type(error).__name__} ({error})"
        ) from error

"""Checkpoints of a training: written while it runs, read to resume it."""

import dataclasses
import json
import os
import tempfile
import warnings
from typing import Any

import numpy as np
import tensorflow as tf

from keras_comet._keras import KERAS_3
from keras_comet._keras import flatten_layers
from keras_comet.search import SearchReport
from keras_comet.training.workers import is_chief

# What TensorFlow raises for files that are cut short, altered or missing.
_UNREADABLE = (tf.errors.OpError, LookupError, OSError, ValueError)


@dataclasses.dataclass
class Progress:
    """Position of a training, and its reports so far.

    Args:
        epoch: int. Number of finished epochs.
        step: int. Number of finished updates in the epoch after those.
        epochs: list of int, as in `History.epoch`.
        history: dict of lists, as in `History.history`.
        reports: dict from update to `SearchReport`.
    """

    epoch: int = 0
    step: int = 0
    epochs: list[int] = dataclasses.field(default_factory=list)
    history: dict[str, list[Any]] = dataclasses.field(default_factory=dict)
    reports: dict[int, SearchReport] = dataclasses.field(default_factory=dict)

    def continue_history(self, history: Any) -> None:
        """Restores earlier epochs into an empty `History`."""
        history.epoch += self.epochs
        history.history.update(
            {key: list(values) for key, values in self.history.items()}
        )

    def finish_epoch(self, history: Any) -> None:
        """Counts an epoch as finished, and copies the `History` up to it."""
        self.epoch += 1
        self.step = 0
        self.epochs = list(history.epoch)
        self.history = {key: list(v) for key, v in history.history.items()}


class _SavedProgress(tf.train.experimental.PythonState):
    """Keeps a `Progress` in a checkpoint, as JSON."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def serialize(self) -> str:
        return json.dumps(
            dataclasses.asdict(self._progress),
            default=lambda value: np.asarray(value).tolist(),
        )

    def deserialize(self, string_value: bytes) -> None:
        values = json.loads(string_value)
        # In place, as the callback that searches goes on adding to them.
        self._progress.reports.clear()
        self._progress.reports.update(
            {
                int(step): SearchReport(**report)
                for step, report in values.pop("reports").items()
            }
        )
        for name, value in values.items():
            setattr(self._progress, name, value)


class Checkpoints:
    """Writes and reads checkpoints from which a training resumes exactly.

    They hold the variables of the model, its optimizer and its metrics, the
    state of random generators, the position in the data, and the progress.
    Of several workers the chief alone writes them, and all read them.

    Args:
        directory: str or path.
        max_to_keep: int. The newest ones are kept.
        model: Keras model, compiled, with all its variables built.
        iterator: iterator of a `tf.data.Dataset`.
        progress: `Progress`, which `restore` changes.

    Raises:
        ValueError: If the position in the data cannot be saved.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        max_to_keep: int,
        model: Any,
        iterator: Any,
        progress: Progress,
    ) -> None:
        _check_iterator(iterator)
        self._is_chief = is_chief(model)
        self._checkpoint = tf.train.Checkpoint(
            variables=_find_variables(model),
            generators=_find_generators(model),
            # Keras 2 keeps the loss scale in no list of variables.
            optimizer=model.optimizer,
            iterator=iterator,
            progress=_SavedProgress(progress),
        )
        # The first save would make it, which all workers have to do at once.
        _ = self._checkpoint.save_counter
        self._manager = tf.train.CheckpointManager(
            self._checkpoint,
            os.fspath(directory),
            max_to_keep=max_to_keep,
            checkpoint_name="update",
        )

    def save(self, update: int) -> None:
        """Writes a checkpoint, or warns if it cannot be written.

        Args:
            update: int. Number of finished updates, for the file's name.
        """
        if not self._is_chief:
            # Variables that are summed over the workers need all to be read.
            with tempfile.TemporaryDirectory() as directory:
                self._checkpoint.write(f"{directory}/update")
            return
        try:
            self._manager.save(checkpoint_number=update)
        except (OSError, tf.errors.OpError) as error:
            half = f"{self._manager.directory}/update-{update}_temp"
            if tf.io.gfile.exists(half):
                tf.io.gfile.rmtree(half)
            warnings.warn(
                f"The checkpoint after update {update} could not be written "
                f"to {self._manager.directory}: {_first_line(error)}. Is the "
                "disk full? Training goes on; the newest checkpoint is "
                f"{self._manager.latest_checkpoint}.",
                stacklevel=3,
            )

    def restore(self) -> None:
        """Reads the newest checkpoint that can be read, if there is any.

        Raises:
            ValueError: If there are some, but none can be read, or if they
                are of another model.
        """
        paths = self._manager.checkpoints
        for path in reversed(paths):
            try:
                _read_all(path)
            except _UNREADABLE as error:
                warnings.warn(
                    f"The checkpoint {path} cannot be read: "
                    f"{_first_line(error)}. Going on with the one before.",
                    stacklevel=4,
                )
                continue
            self._restore_from(path)
            return
        if paths:
            raise ValueError(
                f"None of the checkpoints in {self._manager.directory} can be "
                "read. Empty the directory, or name another one, to train "
                f"from the beginning. Received: {paths}"
            )

    def _restore_from(self, path: str) -> None:
        try:
            status = self._checkpoint.restore(path)
            status.assert_existing_objects_matched()
            status.assert_consumed()
        except (AssertionError, ValueError, tf.errors.OpError) as error:
            raise ValueError(
                f"The checkpoint {path} is of another model, optimizer or "
                "data set, or of the other generation of Keras. Name another "
                "`checkpoint_dir`, or build what the checkpoint is of. "
                f"Received: {_first_line(error)}"
            ) from error


def _find_variables(model: Any) -> list[Any]:
    """Lists the variables that a training changes, each once."""
    variables = [
        *model.variables,
        *model.optimizer.variables,
        *(v for metric in model.metrics for v in metric.variables),
    ]
    return list({id(each): each for each in variables}.values())


def _find_generators(model: Any) -> list[Any]:
    """Lists the random generators of Keras 2, which are no variables."""
    if KERAS_3:
        return []
    generators = {
        layer.name: layer._random_generator
        for layer in flatten_layers(model)
        if hasattr(layer, "_random_generator")
    }
    forgetful = [
        name
        for name, generator in generators.items()
        if generator._rng_type == generator.RNG_LEGACY_STATEFUL
    ]
    if forgetful:
        warnings.warn(
            f"The random state of the layers {forgetful} cannot be saved: a "
            "training that is resumed draws other numbers. Call "
            "`tf_keras.backend.experimental.enable_tf_random_generator()` "
            "before the layers are made.",
            stacklevel=5,
        )
    return list(generators.values())


def _check_iterator(iterator: Any) -> None:
    with tempfile.TemporaryDirectory() as directory:
        try:
            tf.train.Checkpoint(iterator=iterator).write(f"{directory}/trial")
        except tf.errors.FailedPreconditionError as error:
            raise ValueError(
                "The position in this data set cannot be saved, so that a "
                "training cannot be resumed on it: "
                f"{_first_line(error)} Make the data set without Python "
                "functions, generators and unseeded random operations, for "
                "example by writing it to files with `Dataset.save` and "
                "reading those by `tf.data.Dataset.load`; or train without "
                "`checkpoint_dir`."
            ) from error


def _read_all(path: str) -> None:
    """Reads all of a checkpoint, which verifies its checksums."""
    dtypes = tf.train.load_checkpoint(path).get_variable_to_dtype_map()
    # The reader has no NumPy equivalent of an iterator's state.
    tf.raw_ops.RestoreV2(
        prefix=path,
        tensor_names=list(dtypes),
        shape_and_slices=[""] * len(dtypes),
        dtypes=list(dtypes.values()),
    )


def _first_line(error: Exception) -> str:
    message = getattr(error, "message", None) or str(error)
    return message.strip().split("\n")[0]

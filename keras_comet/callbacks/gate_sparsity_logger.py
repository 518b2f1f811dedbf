"""Writes to TensorBoard which experts each task uses."""

import pathlib
from typing import Any

import numpy as np
import tensorflow as tf

from keras_comet._keras import flatten_layers
from keras_comet._keras import keras
from keras_comet.gates.base import Gate
from keras_comet.gates.routing_weights import routing_weights
from keras_comet.metrics import expert_usage
from keras_comet.metrics import routing_statistics

_INSTALL = "Install it with `pip install 'keras-comet[tensorboard]'`."


class GateSparsityLogger(keras.callbacks.Callback):
    """Logs cardinality, balance and usage of every gate after each epoch.

    Routes one probe batch eagerly and writes, under `log_dir/gates`, a few
    scalars for each task, a histogram of expert usage, and one heatmap of
    tasks by experts. Adds nothing to the model's graphs.

    Args:
        log_dir: str or path. TensorBoard's directory.
        inputs: one batch of the model's inputs, to route.

    Attributes:
        history: list with a dict for each epoch: task to statistic to float.

    Raises:
        ImportError: If tensorboard or matplotlib is not installed.
        ValueError: If the model has no gate.
    """

    def __init__(self, log_dir: Any, inputs: Any) -> None:
        super().__init__()
        try:
            import matplotlib  # noqa: F401
            import tensorboard  # noqa: F401
        except ImportError as error:
            raise ImportError(
                f"GateSparsityLogger needs {error.name}. {_INSTALL}"
            ) from error
        self.inputs = inputs
        self.history: list[dict[str, dict[str, float]]] = []
        self._writer = tf.summary.create_file_writer(
            str(pathlib.Path(log_dir) / "gates")
        )

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        weights = routing_weights(self.model, self.inputs)
        caps = {
            gate.task or gate.name: getattr(gate, "k", None)
            for gate in flatten_layers(self.model)
            if isinstance(gate, Gate)
        }
        statistics = {
            task: {
                name: float(value)
                for name, value in routing_statistics(
                    each, caps.get(task)
                ).items()
            }
            for task, each in weights.items()
        }
        usage = {t: expert_usage(each).numpy() for t, each in weights.items()}
        self.history.append(statistics)
        with self._writer.as_default(step=epoch):
            for task, values in statistics.items():
                for name, value in values.items():
                    tf.summary.scalar(f"gates/{task}/{name}", value)
                tf.summary.histogram(f"gates/{task}/usage", usage[task])
            tf.summary.image("gates/usage", _draw_usage(usage)[np.newaxis])
        self._writer.flush()


def _draw_usage(usage: dict[str, np.ndarray]) -> np.ndarray:
    """Draws a task-by-expert heatmap; returns its pixels."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 1.2 + 0.5 * len(usage)), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axis = figure.add_subplot()
    width = max(len(shares) for shares in usage.values())
    table = np.full((len(usage), width), np.nan)
    for row, shares in zip(table, usage.values(), strict=True):
        row[: len(shares)] = shares
    picture = axis.imshow(table, aspect="auto", vmin=0.0)
    axis.set_yticks(range(len(usage)), list(usage))
    axis.set_xlabel("expert")
    figure.colorbar(picture, ax=axis, label="share of weight")
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()

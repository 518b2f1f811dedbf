"""Logs what the gates do, epoch by epoch, for TensorBoard."""

import importlib
import os
from typing import Any

import numpy as np
import tensorflow as tf

from keras_comet._keras import flatten_layers
from keras_comet._keras import keras
from keras_comet.analysis.batches import first_inputs
from keras_comet.analysis.expert_similarity import expert_similarity
from keras_comet.analysis.routing_ablation import routing_ablation
from keras_comet.callbacks.usage_heatmap import to_image
from keras_comet.callbacks.usage_heatmap import usage_heatmap
from keras_comet.gates.base import Gate
from keras_comet.gates.capture import capture_routing
from keras_comet.gates.smooth_step_gate import SmoothStepGate
from keras_comet.layers.multi_gate_mixture_of_experts import (
    MultiGateMixtureOfExperts,
)
from keras_comet.metrics import expert_usage
from keras_comet.metrics import routing_statistics
from keras_comet.metrics import union_statistics


class GateSparsityLogger(keras.callbacks.Callback):
    """Writes how sparse and how even each gate routes a fixed probe batch.

    Before the first epoch and after every `frequency`-th one, the model is
    called on the probe, eagerly and with `training=False`, and what its gates
    return is written below `log_dir/gates`:

    | tag | kind |
    |---|---|
    | `gates/<task>/<statistic>` | scalar, see `routing_statistics` |
    | `gates/<task>/expert_usage` | histogram of the experts' shares |
    | `gates/expert_usage` | image, tasks by experts |

    `within_k` is there for gates that have a `k`. A gate with smooth-steps,
    `COMETGate` or `DSelectKGate`, has two more tags, of its state:
    `gamma_scale`, 1 at first and 0 for hard routing, and `cardinality_cap`.
    Each task of a `MultiGateMixtureOfExperts` has what they all have together:
    `union_cardinality`, `largest_union`, and the mixture's `union_cap`.

    With `ablation_data` there are two more: what `routing_ablation` adds to
    the loss, on average, and how `expert_similarity` sees the probe.

    | tag | kind |
    |---|---|
    | `gates/<task>/ablation/<name>` | scalar |
    | `gates/<mixture>/expert_similarity` | image, experts by experts |

    The step is the number of finished epochs. Point TensorBoard at `log_dir`;
    the same directory as for `keras.callbacks.TensorBoard` shows both
    together. Training is not changed in any way, and nothing is added to the
    compiled model.

    Args:
        log_dir: str or path. Directory of the logs.
        inputs: the probe, one batch of model inputs: array, tensor, or a
            dict, list or tuple of them; or a `tf.data.Dataset` of inputs or
            of `(inputs, ...)`, of which the first batch is used.
        frequency: int. Epochs from one entry to the next. Defaults to `1`.
        ablation_data: the data of `routing_ablation`, with labels, or `None`.
            Each entry computes it `num_experts + 3` times for each gate, so
            take little of it. Defaults to `None`.

    Attributes:
        history: list of dict `{task: {statistic: float}}`, one entry each
            time.
        steps: list of int, the step of each entry.

    Raises:
        ImportError: If TensorBoard or Matplotlib is not installed.
        ValueError: If `frequency` is below 1, the data set is empty, or, in
            training, the model has no gate.

    Example:

    ```python
    import tempfile
    import keras
    import numpy as np
    import keras_comet

    x, y = np.random.normal(size=(64, 4)), np.ones((64, 1))
    experts = [keras.layers.Dense(1) for _ in range(4)]
    model = keras.Sequential(
        [keras_comet.MixtureOfExperts(experts, keras_comet.COMETGate(4))]
    )
    model.compile("adam", "mse")
    logger = keras_comet.GateSparsityLogger(tempfile.mkdtemp(), x[:32])
    model.fit(x, y, epochs=2, callbacks=[logger], verbose=0)
    logger.history[-1]  # {"comet_gate": {"cardinality": ...}}
    ```
    """

    def __init__(
        self,
        log_dir: str | os.PathLike[str],
        inputs: Any,
        frequency: int = 1,
        ablation_data: Any = None,
    ) -> None:
        super().__init__()
        if frequency < 1:
            raise ValueError(
                f"`frequency` must be at least 1. Received: {frequency=}"
            )
        for name in ("matplotlib", "tensorboard"):
            try:
                importlib.import_module(name)
            except ImportError as error:
                raise ImportError(
                    f"GateSparsityLogger needs {name}, which cannot be "
                    "imported. Install it with "
                    "`pip install 'keras-comet[tensorboard]'`."
                ) from error
        self.log_dir = os.fspath(log_dir)
        self.frequency = frequency
        self.ablation_data = ablation_data
        self.history: list[dict[str, dict[str, float]]] = []
        self.steps: list[int] = []
        self._inputs = first_inputs(inputs)
        self._writer: Any = None
        self._is_first_epoch = True

    def on_train_begin(self, logs: Any = None) -> None:
        self._writer = tf.summary.create_file_writer(
            os.path.join(self.log_dir, "gates")
        )
        self._is_first_epoch = True

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        # Not in on_train_begin, which does not know fit(initial_epoch=...).
        if self._is_first_epoch and self.model.built:
            self._log(epoch)
        self._is_first_epoch = False

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if (epoch + 1) % self.frequency == 0:
            self._log(epoch + 1)

    def on_train_end(self, logs: Any = None) -> None:
        self._writer.close()

    def _log(self, step: int) -> None:
        captured = capture_routing(self.model, self._inputs)
        usage = {
            task: expert_usage(weights).numpy()
            for task, (_, weights) in captured.items()
        }
        statistics = {
            task: {**_measure(gate, weights), **_read_state(gate)}
            for task, (gate, weights) in captured.items()
        }
        for task, shared in _measure_unions(self.model, captured).items():
            statistics[task].update(shared)
        images = {"expert_usage": usage_heatmap(usage)}
        if self.ablation_data is not None:
            report = routing_ablation(self.model, self.ablation_data)
            for task, gate in report.gates.items():
                for name, difference in gate.differences.items():
                    statistics[task][f"ablation/{name}"] = difference.mean
            similarity = expert_similarity(self.model, self._inputs)
            for mixture, each in similarity.items():
                images[f"{mixture}/expert_similarity"] = each.plot()
        self.history.append(statistics)
        self.steps.append(step)
        self._write(step, statistics, usage, images)

    def _write(
        self,
        step: int,
        statistics: dict[str, dict[str, float]],
        usage: dict[str, np.ndarray],
        images: dict[str, Any],
    ) -> None:
        # keras.callbacks.TensorBoard may have switched summaries off.
        with self._writer.as_default(step), tf.summary.record_if(True):
            for task, values in statistics.items():
                for name, value in values.items():
                    tf.summary.scalar(f"gates/{task}/{name}", value)
                tf.summary.histogram(f"gates/{task}/expert_usage", usage[task])
            for name, figure in images.items():
                image = to_image(figure)
                tf.summary.image(f"gates/{name}", image[np.newaxis])
        self._writer.flush()


def _measure(gate: Gate, weights: np.ndarray) -> dict[str, float]:
    statistics = routing_statistics(weights, k=getattr(gate, "k", None))
    return {name: float(value) for name, value in statistics.items()}


def _measure_unions(
    model: Any, captured: dict[str, tuple[Gate, np.ndarray]]
) -> dict[str, dict[str, float]]:
    """Measures what the tasks of each multi-gate mixture use together."""
    unions = {}
    for layer in flatten_layers(model):
        if not isinstance(layer, MultiGateMixtureOfExperts):
            continue
        weights = {
            task: each
            for task, (gate, each) in captured.items()
            if any(gate is own for own in layer.gates.values())
        }
        if weights:
            shared = {
                **union_statistics(weights),
                "union_cap": tf.convert_to_tensor(layer.union_cap),
            }
            values = {name: float(value) for name, value in shared.items()}
            unions.update(dict.fromkeys(weights, values))
    return unions


def _read_state(gate: Gate) -> dict[str, float]:
    """Reads the state of a gate with smooth-steps."""
    if not isinstance(gate, SmoothStepGate):
        return {}
    return {
        name: float(tf.convert_to_tensor(getattr(gate, name)))
        for name in ("gamma_scale", "cardinality_cap")
    }

"""Routing ablation: what a model loses when a gate is overruled."""

from collections.abc import Callable
from collections.abc import Iterable
from typing import Any

import numpy as np
import tensorflow as tf

from keras_comet._keras import keras
from keras_comet.analysis.ablation_report import AblationReport
from keras_comet.analysis.ablation_report import GateAblation
from keras_comet.analysis.batches import split_batches
from keras_comet.analysis.batches import to_tensors
from keras_comet.analysis.estimate import Estimate
from keras_comet.analysis.interventions import Intervention
from keras_comet.analysis.interventions import make_interventions
from keras_comet.gates.base import Gate
from keras_comet.gates.capture import capture_routing
from keras_comet.gates.replace import replace_routing
from keras_comet.models.compiled_loss import compute_losses
from keras_comet.models.compiled_loss import keep_metrics
from keras_comet.models.compiled_loss import unpack_batch


def routing_ablation(
    model: keras.Model, data: Any, batch_size: int = 256, seed: int = 0
) -> AblationReport:
    """Answers whether the gates of a model matter: overrules them in turn.

    For one gate at a time, its routing weights are replaced and the loss is
    computed again, everything else as it is:

    | name | every row's weights are |
    |---|---|
    | `mean_weights` | the mean of the gate's weights over all rows |
    | `shuffled` | those of another row, by a permutation of all rows |
    | `largest_only` | 1 for the row's own largest expert |
    | `best_single_expert` | 1 for one expert, the same for all rows |

    A `union_cap` of the mixture, if it has one, holds for the replaced weights
    as well. Padding is no row.

    The best single expert is that with the smallest loss on this same data,
    which favours it a little. Finding it takes one evaluation of the data for
    each expert: in all `num_experts + 3` for each gate, and two for the
    model. All are eager, with `training=False`.

    The loss is the compiled one, without regularizers: that of the output
    with the name of the gate's task, before loss weights, if the model has
    several outputs, and else that of the whole model.

    Args:
        model: Keras model, compiled. Nothing in it is changed, metrics
            included.
        data: `tf.data.Dataset` of batches `(x, y)` or `(x, y,
            sample_weight)`, at least two; or such a tuple of arrays, or of
            dicts, lists and tuples of arrays; for a recommender, of what its
            `fit` takes.
        batch_size: int. Rows to a batch of arrays. Defaults to `256`.
        seed: int. Seed of the shuffling. Defaults to `0`.

    Returns:
        An `AblationReport`. Print it for the table and how to read it.

    Raises:
        ValueError: If the model is not compiled or calls no gate, or the data
            has no labels, fewer than two batches or no end.

    Example:

    ```python
    import keras
    import numpy as np
    import keras_comet

    x = np.random.normal(size=(64, 4)).astype("float32")
    y = np.where(x[:, :1] > 0, x[:, 1:2], x[:, 2:3])
    experts = [keras.layers.Dense(1) for _ in range(2)]
    gate = keras_comet.SoftmaxGate(2, name="gate")
    model = keras.Sequential(
        [keras.Input((4,)), keras_comet.MixtureOfExperts(experts, gate)]
    )
    model.compile("adam", "mse")
    report = keras_comet.routing_ablation(model, (x, y), batch_size=16)
    report.gates["gate"].differences["shuffled"].mean
    print(report)
    ```
    """
    if getattr(model, "optimizer", None) is None:
        raise ValueError(
            "`routing_ablation` measures the compiled loss. Received: the "
            f"model {model.name!r}, which is not compiled. Call "
            "`model.compile` first."
        )
    if isinstance(data, tuple) and hasattr(model, "convert_batch"):
        data = model.convert_batch(data)
    batches = split_batches(data, batch_size)
    gates, sizes = _route(model, batches)
    with keep_metrics(model):
        losses = {label: _Losses(*gates[label], seed) for label in gates}
        for batch, num_rows in zip(batches, sizes, strict=True):
            batch = to_tensors(batch)
            as_it_is = compute_losses(model, batch)
            num_labels = _count_labels(model, batch)
            for label, each in losses.items():
                size = num_labels.get(gates[label][0].task or "", num_rows)
                each.measure(model, batch, as_it_is, size)
    return AblationReport(
        {label: each.summarize() for label, each in losses.items()}
    )


def _count_labels(model: Any, batch: Any) -> dict[str, float]:
    """Adds up the weights of a batch by task, if losses are means by task."""
    if not hasattr(model, "apply_label_mask"):
        return {}
    _, _, weights = unpack_batch(model, batch)
    return {task: float(tf.reduce_sum(each)) for task, each in weights.items()}


class _Losses:
    """The losses of all batches, with one gate as it is and overruled.

    Args:
        gate: `Gate`.
        rows: float array `(rows, num_experts)`, its weights on all data.
        seed: int.
    """

    def __init__(self, gate: Gate, rows: np.ndarray, seed: int) -> None:
        self._gate = gate
        self._interventions = make_interventions(rows, seed)
        self._sizes: list[float] = []
        self._as_it_is: list[float] = []
        self._changed: dict[Any, list[float]] = {
            name: [] for name in self._interventions
        }

    def measure(
        self, model: Any, batch: Any, as_it_is: Any, size: float
    ) -> None:
        """Computes the losses of the next batch, a mean over its size."""
        self._sizes.append(size)
        self._as_it_is.append(self._own(as_it_is))
        for name, intervention in self._interventions.items():
            with replace_routing(self._at_gate(intervention)):
                changed = compute_losses(model, batch)
            self._changed[name].append(self._own(changed))

    def _at_gate(
        self, intervention: Intervention
    ) -> Callable[[Gate, tf.Tensor], tf.Tensor]:
        return lambda gate, weights: (
            intervention(weights) if gate is self._gate else weights
        )

    def _own(self, losses: tuple[float, dict[str, float]]) -> float:
        total, by_output = losses
        return by_output.get(self._gate.task or "", total)

    def summarize(self) -> GateAblation:
        """Averages over the batches, each as often as its size."""
        sizes = self._sizes if any(self._sizes) else [1.0] * len(self._sizes)
        differences = {
            name: Estimate.of(np.subtract(losses, self._as_it_is), sizes)
            for name, losses in self._changed.items()
        }
        single_experts = [
            differences.pop(expert) for expert in range(self._gate.num_experts)
        ]
        best = int(np.argmin([each.mean for each in single_experts]))
        differences["best_single_expert"] = single_experts[best]
        return GateAblation(
            Estimate.of(self._as_it_is, sizes),
            differences,
            single_experts,
            best,
        )


def _route(
    model: Any, batches: Iterable[Any]
) -> tuple[dict[str, tuple[Gate, np.ndarray]], list[int]]:
    """Returns each gate with its weights on all data, and batch sizes."""
    gates: dict[str, Gate] = {}
    rows: dict[str, list[np.ndarray]] = {}
    sizes = []
    for batch in batches:
        if not isinstance(batch, tuple) or len(batch) < 2:
            raise ValueError(
                "The data must hold batches (x, y) or (x, y, sample_weight), "
                f"as a loss needs labels. Received: {type(batch).__name__} "
                "without labels. Zip inputs and labels."
            )
        inputs = to_tensors(batch[0])
        sizes.append(int(tf.nest.flatten(inputs)[0].shape[0]))
        for label, (gate, weights) in capture_routing(model, inputs).items():
            gates[label] = gate
            weights = weights.reshape(-1, gate.num_experts)
            # Gates weigh no padding, whose weights are all 0.
            rows.setdefault(label, []).append(weights[weights.any(axis=-1)])
    if len(sizes) < 2:
        raise ValueError(
            "The spread over batches needs at least two batches. Received: "
            f"{len(sizes)}. Make them smaller, by `batch_size` for arrays."
        )
    return {
        label: (gate, np.concatenate(rows[label]))
        for label, gate in gates.items()
    }, sizes

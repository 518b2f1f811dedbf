"""Expert similarity: how alike the outputs of the experts are."""

import dataclasses
from typing import Any

import numpy as np
import tensorflow as tf

from keras_comet._keras import keras
from keras_comet.analysis.batches import first_inputs
from keras_comet.analysis.figures import make_figure
from keras_comet.gates.capture import number_equal
from keras_comet.layers.expert_group import captured_outputs

# Experts that are all more alike than this are one expert.
_ALIKE = 0.99


@dataclasses.dataclass(frozen=True)
class ExpertSimilarity:
    """How alike the experts of one mixture are.

    Args:
        matrix: float array `(num_experts, num_experts)`, within -1 and 1.
        effective_experts: float. Number of different experts that there seem
            to be: 1 for equal ones, `num_experts` for unrelated ones.
    """

    matrix: np.ndarray
    effective_experts: float

    @property
    def verdict(self) -> str:
        """The reading of the numbers, in words."""
        if self.matrix.min() > _ALIKE:
            return "these experts are one expert"
        return (
            f"{len(self.matrix)} experts are like "
            f"{self.effective_experts:.1f} unrelated ones"
        )

    def plot(self) -> Any:
        """Draws the matrix, a row and a column for each expert.

        Returns:
            A `matplotlib.figure.Figure`.

        Raises:
            ImportError: If Matplotlib is not installed.
        """
        side = 3.0 + 0.25 * len(self.matrix)
        figure = make_figure(side + 1.0, side)
        axes = figure.add_subplot()
        picture = axes.imshow(self.matrix, vmin=-1.0, vmax=1.0, cmap="RdBu_r")
        axes.set_xlabel("expert")
        axes.set_ylabel("expert")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.yaxis.get_major_locator().set_params(integer=True)
        axes.set_title(self.verdict)
        figure.colorbar(picture, ax=axes, label="similarity of the outputs")
        return figure


def expert_similarity(
    model: keras.layers.Layer, inputs: Any
) -> dict[str, ExpertSimilarity]:
    """Measures how alike the outputs of the experts of each mixture are.

    All experts compute all rows that their mixture sees. From each output the
    mean over rows and experts is subtracted, which they share: otherwise all
    positive outputs would look alike. The similarity of two experts is the
    mean over rows of the cosine between their outputs. It sees no difference
    between an output and a multiple of it. Rows with NaN are left out, and
    padding; if there is no row to count, every number is NaN.
    `effective_experts` is the exponential of the entropy of `eigenvalues /
    num_experts` of that matrix.

    Args:
        model: Keras model or layer. It is called once, eagerly and with
            `training=False`, and nothing in it is changed.
        inputs: one batch of its inputs: array, tensor, or a dict, list or
            tuple of them; or a `tf.data.Dataset` of inputs or of `(inputs,
            ...)`, of which the first batch is used. A few hundred rows tell
            enough.

    Returns:
        A dict from the name of each mixture to its `ExpertSimilarity`, in the
        order of the calls; from `"<name>/<task>"` and `"<name>/shared"` for
        the groups of a `CustomizedGateControl`. Equal names are numbered. A
        mixture that is called more than once is measured on the rows of all
        its calls.

    Raises:
        ValueError: If no mixture was called outside of a `tf.function`, or
            the data set is empty.

    Example:

    ```python
    import keras
    import numpy as np
    import keras_comet

    mixture = keras_comet.MixtureOfExperts(
        [keras.layers.Dense(8) for _ in range(4)],
        keras_comet.SoftmaxGate(4),
        name="mixture",
    )
    model = keras.Sequential([keras.Input((16,)), mixture])
    similarity = keras_comet.expert_similarity(model, np.ones((3, 16)))
    similarity["mixture"].matrix.shape  # (4, 4)
    ```
    """
    calls: list[tuple[Any, str, list[tf.Tensor]]] = []
    token = captured_outputs.set(calls)
    try:
        model(first_inputs(inputs), training=False)
    finally:
        captured_outputs.reset(token)
    if not calls:
        raise ValueError(
            f"The model {model.name!r} called no mixture, so there are no "
            "experts to compare. Expected: a model with at least one mixture "
            "of experts, outside of any @tf.function, and a row of inputs."
        )
    # By identity, as Keras layers may have equal names.
    outputs: dict[Any, list[np.ndarray]] = {}
    names: dict[Any, str] = {}
    for experts, label, by_expert in calls:
        key = id(experts), label
        names[key] = label
        outputs.setdefault(key, []).append(_flatten(by_expert))
    return {
        name: _compare(np.concatenate(each, axis=1))
        for name, each in zip(
            number_equal(names.values()), outputs.values(), strict=True
        )
    }


def _flatten(by_expert: list[tf.Tensor]) -> np.ndarray:
    """Returns outputs `(num_experts, rows, width)`."""
    outputs = np.stack([each.numpy() for each in by_expert])
    return outputs.reshape(*outputs.shape[:2], -1).astype("float64")


def _compare(outputs: np.ndarray) -> ExpertSimilarity:
    outputs = outputs[:, np.isfinite(outputs).all(axis=(0, 2))]
    num_experts, num_rows, _ = outputs.shape
    if num_rows == 0:
        return ExpertSimilarity(np.full([num_experts] * 2, np.nan), np.nan)
    centred = outputs - outputs.mean(axis=(0, 1))
    lengths = np.linalg.norm(centred, axis=-1, keepdims=True)
    # One more axis, on which outputs without direction equal each other.
    is_zero = lengths == 0.0
    directions = np.concatenate(
        [centred / np.where(is_zero, 1.0, lengths), is_zero], axis=-1
    )
    flat = directions.reshape(num_experts, -1)
    matrix = flat @ flat.T / num_rows
    shares = np.linalg.eigvalsh(matrix) / num_experts
    shares = shares[shares > 0.0]
    entropy = -np.sum(shares * np.log(shares))
    return ExpertSimilarity(matrix, float(np.exp(entropy)))

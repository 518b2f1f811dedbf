"""Caps the experts of every row, from an epoch or step named on."""

import dataclasses
import warnings
from typing import Any

import tensorflow as tf

from keras_comet._keras import flatten_layers
from keras_comet._keras import keras
from keras_comet.gates.smooth_step_gate import SmoothStepGate
from keras_comet.layers.multi_gate_mixture_of_experts import (
    MultiGateMixtureOfExperts,
)


class CardinalityTarget(keras.callbacks.Callback):
    """Makes every row use at most `cap` experts from an epoch or step named.

    For the gates with smooth-steps, `COMETGate` and `DSelectKGate`, however
    many of them the model has; others keep their cap always. Until then a
    gate routes softly and settles as its entropy weight makes it. From then
    on a row that still uses more experts keeps its `cap` largest weights,
    which are divided by their sum: in training and at inference alike. Splits
    keep the gradient that they have through these weights, so the gate goes
    on learning.

    The cap is the variable `cardinality_cap` of each gate, which is saved
    with it. It is never lifted again by a target: training further, on the
    same model or a reloaded one, keeps it.

    With a `union_cap`, every row of each `MultiGateMixtureOfExperts` also uses
    at most so many experts for all of its tasks together, whatever its gates:
    Top-k and Hash keep a cap for each task, but not for all of them. That is
    the variable `union_cap` of the mixture.

    Weights of before count for less than they seem, as they break the cap:
    give `EarlyStopping` and `ModelCheckpoint` a start after it, such as
    `start_from_epoch=by_epoch`.

    In a custom loop, call `set_model(model)` before it and `update(position)`
    after each step.

    Args:
        by_epoch: int. Number of epochs after which the cap holds, 0 for the
            whole training. Defaults to `None`: see `by_step`.
        by_step: int. Number of optimizer steps after which the cap holds.
            Defaults to `None`: see `by_epoch`.
        cap: int. Largest number of experts per row, at least 1. Defaults to
            `None`: each gate's k.
        union_cap: int. Largest number of experts per row of all tasks of a
            multi-gate mixture, at least 1. Defaults to `None`: as many as the
            tasks use.

    Raises:
        ValueError: If not exactly one of `by_epoch` and `by_step` is given, a
            number is no integer or too small, or the model has nothing to
            cap: no gate with smooth-steps, or, with a `union_cap`, no
            multi-gate mixture.

    Example:

    ```python
    import keras
    import numpy as np
    import keras_comet

    x, y = np.random.normal(size=(256, 4)), np.ones((256, 1))
    experts = [keras.layers.Dense(1) for _ in range(8)]
    gate = keras_comet.COMETGate(8, k=2)
    model = keras.Sequential([keras_comet.MixtureOfExperts(experts, gate)])
    model.compile("adam", "mse")
    target = keras_comet.CardinalityTarget(by_epoch=2)
    model.fit(x, y, epochs=3, callbacks=[target], verbose=0)
    np.count_nonzero(gate(x), axis=-1).max()  # 2, or 1
    ```
    """

    def __init__(
        self,
        by_epoch: int | None = None,
        by_step: int | None = None,
        cap: int | None = None,
        union_cap: int | None = None,
    ) -> None:
        super().__init__()
        given = [each for each in (by_epoch, by_step) if each is not None]
        if len(given) != 1:
            raise ValueError(
                "The deadline must be either `by_epoch` or `by_step`. "
                f"Received: {by_epoch=}, {by_step=}"
            )
        [deadline] = given
        if deadline != int(deadline) or deadline < 0:
            raise ValueError(
                "The deadline must be an integer of at least 0. Received: "
                f"{by_epoch=}, {by_step=}. Within an epoch, use `by_step`."
            )
        for name, value in (("cap", cap), ("union_cap", union_cap)):
            if value is not None and (value != int(value) or value < 1):
                raise ValueError(
                    f"`{name}` must be an integer of at least 1, a number of "
                    f"experts. Received: {name}={value}"
                )
        self.by_epoch = by_epoch
        self.by_step = by_step
        self.cap = cap
        self.union_cap = union_cap
        self._deadline = deadline
        self._caps: list[_Cap] = []
        self._position = 0
        self._is_done = False

    def set_model(self, model: Any) -> None:
        super().set_model(model)
        layers = flatten_layers(model)
        self._caps = [
            _Cap(layer, "cardinality_cap", self.cap or layer.k)
            for layer in layers
            if isinstance(layer, SmoothStepGate)
        ]
        self._is_done = False
        if self.union_cap is not None:
            self._caps += self._union_caps(layers, self.union_cap)
        if not self._caps:
            raise ValueError(
                "A CardinalityTarget caps gates with smooth-steps. "
                f"Received: model {model.name!r}, which has none. Expected: a "
                "COMETGate or a DSelectKGate; other gates keep their cap."
            )

    def _union_caps(self, layers: list[Any], union_cap: int) -> list["_Cap"]:
        caps = [
            _Cap(layer, "union_cap", union_cap)
            for layer in layers
            if isinstance(layer, MultiGateMixtureOfExperts)
        ]
        if not caps:
            raise ValueError(
                "A `union_cap` is for the tasks of a "
                f"MultiGateMixtureOfExperts. Received: {union_cap=} and model "
                f"{self.model.name!r}, which has none. Use `cap` for the "
                "experts of each gate."
            )
        return caps

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        # Another callback may have restored weights.
        self._is_done = False
        self.update(self._count_steps() if self.by_epoch is None else epoch)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if self._is_done:
            return
        # By epochs, for gates that the first step built.
        by_step = self.by_epoch is None
        self.update(self._count_steps() if by_step else self._position)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if self.by_epoch is not None:
            self.update(epoch + 1)

    def on_train_end(self, logs: Any = None) -> None:
        lifted = [
            each.layer.name
            for each in self._caps
            if self._is_done and each.read() > each.limit
        ]
        if lifted:
            warnings.warn(
                f"{lifted} lost their cap at the end of the training, "
                "as weights of before the deadline were restored. Let only "
                "later ones count, in Keras by `EarlyStopping("
                f"start_from_epoch=...)`. Received: {self.by_epoch=}, "
                f"{self.by_step=}",
                stacklevel=2,
            )

    def update(self, position: int) -> None:
        """Sets the caps if the deadline has come.

        For custom loops; `fit` and `Trainer` need no call.

        Args:
            position: int. Epochs or optimizer steps done, as the deadline
                is counted.
        """
        self._position = position
        if self._is_done or position < self._deadline:
            return
        built = [each for each in self._caps if each.layer.built]
        for each in built:
            if each.read() > each.limit:
                each.variable.assign(each.limit)
        self._is_done = len(built) == len(self._caps)

    def _count_steps(self) -> int:
        # Batches are not counted: some only add to the gradients of a step.
        return int(tf.convert_to_tensor(self.model.optimizer.iterations))


@dataclasses.dataclass(frozen=True)
class _Cap:
    """A variable that holds a number of experts, and what it comes to.

    Args:
        layer: gate or mixture.
        name: str. Name of the variable.
        wanted: int.
    """

    layer: Any
    name: str
    wanted: int

    @property
    def variable(self) -> Any:
        return getattr(self.layer, self.name)

    @property
    def limit(self) -> int:
        return min(self.wanted, self.layer.num_experts)

    def read(self) -> int:
        return int(tf.convert_to_tensor(self.variable))

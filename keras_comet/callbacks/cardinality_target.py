"""Caps the experts of every row, from an epoch or step named on."""

import warnings
from typing import Any

import tensorflow as tf

from keras_comet._keras import flatten_layers
from keras_comet._keras import keras
from keras_comet.gates.smooth_step_gate import SmoothStepGate


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

    Raises:
        ValueError: If not exactly one of `by_epoch` and `by_step` is given, a
            number is no integer or too small, or the model has no gate with
            smooth-steps.

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
        if cap is not None and (cap != int(cap) or cap < 1):
            raise ValueError(
                "`cap` must be an integer of at least 1, a number of experts. "
                f"Received: {cap=}"
            )
        self.by_epoch = by_epoch
        self.by_step = by_step
        self.cap = cap
        self._deadline = deadline
        self._gates: list[SmoothStepGate] = []
        self._steps_before_epoch = 0
        self._position = 0
        self._is_done = False

    def set_model(self, model: Any) -> None:
        super().set_model(model)
        self._gates = [
            layer
            for layer in flatten_layers(model)
            if isinstance(layer, SmoothStepGate)
        ]
        self._is_done = False
        if not self._gates:
            raise ValueError(
                "A CardinalityTarget caps gates with smooth-steps. "
                f"Received: model {model.name!r}, which has none. Expected: a "
                "COMETGate or a DSelectKGate; other gates keep their cap."
            )

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        # Another callback may have restored weights.
        self._is_done = False
        if self.by_epoch is not None:
            self.update(epoch)
        else:
            iterations = self.model.optimizer.iterations
            self._steps_before_epoch = int(tf.convert_to_tensor(iterations))
            self.update(self._steps_before_epoch)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if self.by_epoch is not None:
            # For gates that the first step built.
            self.update(self._position)
        else:
            self.update(self._steps_before_epoch + batch + 1)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if self.by_epoch is not None:
            self.update(epoch + 1)

    def on_train_end(self, logs: Any = None) -> None:
        lifted = [
            gate.name
            for gate in self._gates
            if self._is_done and _read_cap(gate) > self._cap_of(gate)
        ]
        if lifted:
            warnings.warn(
                f"Gates {lifted} lost their cap at the end of the training, "
                "as weights of before the deadline were restored. Let only "
                "later ones count, in Keras by `EarlyStopping("
                f"start_from_epoch=...)`. Received: {self.by_epoch=}, "
                f"{self.by_step=}",
                stacklevel=2,
            )

    def update(self, position: int) -> None:
        """Caps the gates if the deadline has come.

        For custom loops; `fit` and `Trainer` need no call.

        Args:
            position: int. Epochs or optimizer steps done, as the deadline
                is counted.
        """
        self._position = position
        if self._is_done or position < self._deadline:
            return
        built = [gate for gate in self._gates if gate.built]
        for gate in built:
            if _read_cap(gate) > self._cap_of(gate):
                gate.cardinality_cap.assign(self._cap_of(gate))
        self._is_done = len(built) == len(self._gates)

    def _cap_of(self, gate: SmoothStepGate) -> int:
        return min(self.cap or gate.k, gate.num_experts)


def _read_cap(gate: SmoothStepGate) -> int:
    return int(tf.convert_to_tensor(gate.cardinality_cap))

"""Steers gates to a cap on the experts per row that holds by a deadline."""

import math
import warnings
from typing import Any

import numpy as np
import tensorflow as tf

from keras_comet._keras import flatten_layers
from keras_comet._keras import keras
from keras_comet.gates.capture import unique_labels
from keras_comet.gates.smooth_step_gate import SmoothStepGate

# Updates until the deadline; each reads two small variables of every gate.
_NUM_UPDATES = 100

# Soft routing for longer trains better experts, up to where so little is left
# to the end that experts starve as it narrows.
_PATH_POWER = 0.25

# Speed at which the logarithm of the width answers to an error. The error
# falls from 1 to 0 over about two decades of width, a slope of 0.2, so that
# it follows its path with a lag of 1 / (0.2 * 100), a twentieth of the way.
_GAIN = 100.0

# At most a factor of e in one update, however short the training is.
_LARGEST_MOVE = 1.0

_SMALLEST_WIDTH = 1e-9
_LARGEST_WIDTH = 1e9

# An expert with less than this part of an even share starves.
_STARVING = 0.1

# Weight of the load balance penalty while an expert gets nothing at all.
_LARGEST_PRESSURE = 0.2


class CardinalityTarget(keras.callbacks.Callback):
    """Makes every row use at most `cap` experts by a step or epoch named.

    For the gates with smooth-steps, `COMETGate` and `DSelectKGate`, however
    many of them the model has. There is nothing to tune: the width of the
    smooth-steps shrinks as fast as the cardinality that training shows needs
    it to, from soft routing over all experts to hard routing at the deadline,
    which nothing has to jump to as it is the limit of a vanishing width.

    With c the number of experts of a row, the excess is the mean of
    `max(log(c / cap), 0) / log(num_experts / cap)`: 1 while every row uses
    all experts, 0 as soon as none uses too many. With t the time over the
    deadline, the excess is to be `p = (1 - t)^(1/4)`, and the width w follows
    `d log(w) / dt = -100 (excess - p)`: narrower when there is too much,
    wider when the gate saturates too early, so that splits which would have
    lost their gradient get one again. It starts at the gate's `gamma`. At the
    deadline w becomes 0. Splits have no gradient from then on; what weighs
    the selected experts, and the experts, train on.

    Experts that starve, with less than a tenth of an even share, are brought
    back by a load balance penalty. Its weight is 0.2 times what the least
    used expert lacks of that tenth, relative to it; without any that starves,
    there is none. A gate in which every split is saturated from the first
    batch, so that the gradient of all splits is exactly zero, is reported by
    a warning.

    All state that training depends on is in variables of the gates, and saved
    with them. In a custom loop, call `set_model(model)` before the training
    step is traced, and `update(position)` after each step.

    Args:
        by_epoch: float. Number of epochs after which the cap holds. The steps
            of an epoch must be known for a path through the first one.
            Defaults to `None`: see `by_step`.
        by_step: int. Number of optimizer steps after which the cap holds.
            Defaults to `None`: see `by_epoch`.
        cap: int. Largest number of experts per row, at least each gate's k.
            Defaults to `None`: the gate's k.
        share: float. Share of rows within the cap at which it counts as
            held, and the width shrinks no more before the deadline. Defaults
            to `0.999`.

    Attributes:
        history: list of dict, one for each update until the deadline: the
            `position`, and for each gate, by task or name, what `describe`
            returned then.

    Raises:
        ValueError: If not exactly one of `by_epoch` and `by_step` is given or
            it is not above 0, `share` is not within 0 and 1, the model has no
            gate with smooth-steps, or `cap` is below the k of one.

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
    gate.hard_routing  # True
    ```
    """

    def __init__(
        self,
        by_epoch: float | None = None,
        by_step: int | None = None,
        cap: int | None = None,
        share: float = 0.999,
    ) -> None:
        super().__init__()
        if (by_epoch is None) == (by_step is None):
            raise ValueError(
                "The deadline must be either `by_epoch` or `by_step`. "
                f"Received: {by_epoch=}, {by_step=}"
            )
        deadline = float(by_epoch or by_step or 0.0)
        if not deadline > 0.0:
            raise ValueError(
                f"The deadline must be above 0. Received: {by_epoch=}, "
                f"{by_step=}. For hard routing from the start, set the "
                "gates' `hard_routing`."
            )
        if not 0.0 < share <= 1.0:
            raise ValueError(
                "`share` must be above 0 and at most 1, a share of rows. "
                f"Received: {share=}"
            )
        self.by_epoch = by_epoch
        self.by_step = by_step
        self.cap = cap
        self.share = share
        self.history: list[dict[str, Any]] = []
        self._deadline = deadline
        self._gates: list[SmoothStepGate] = []
        self._held_since: dict[int, float] = {}
        self._position = 0.0
        self._moment: int | None = None
        self._epoch_begins_at = 0.0
        self._steps_per_epoch: int | None = None
        self._batch = 0

    def set_model(self, model: Any) -> None:
        super().set_model(model)
        self._gates = [
            layer
            for layer in flatten_layers(model)
            if isinstance(layer, SmoothStepGate)
        ]
        if not self._gates:
            raise ValueError(
                "A CardinalityTarget steers gates with smooth-steps. "
                f"Received: model {model.name!r}, which has none. Expected: a "
                "COMETGate or a DSelectKGate; other gates keep their cap."
            )
        for gate in self._gates:
            if self.cap is not None and self.cap < gate.k:
                raise ValueError(
                    "`cap` must be at least the gate's k, the number of its "
                    f"selectors. Received: cap={self.cap}, gate "
                    f"{gate.name!r} with k={gate.k}. Lower the gate's k."
                )

    def on_train_begin(self, logs: Any = None) -> None:
        self._moment = None

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._epoch_begins_at = float(
            epoch
            if self.by_epoch is not None
            else int(tf.convert_to_tensor(self.model.optimizer.iterations))
        )
        steps = (self.params or {}).get("steps")
        self._steps_per_epoch = steps or self._steps_per_epoch
        # The start, or where a saved training stopped.
        self.update(self._epoch_begins_at)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self._batch = batch
        if self.by_epoch is None:
            self.update(self._epoch_begins_at + batch + 1)
        elif self._steps_per_epoch:
            part = (batch + 1) / self._steps_per_epoch
            self.update(self._epoch_begins_at + part)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self._steps_per_epoch = self._batch + 1
        if self.by_epoch is not None:
            self.update(epoch + 1.0)

    def update(self, position: float) -> None:
        """Steers the gates, a hundred times on the way to the deadline.

        Args:
            position: float. Epochs or optimizer steps done, as the deadline
                is counted.
        """
        last = self._moment
        moment = min(
            int(_NUM_UPDATES * position / self._deadline), _NUM_UPDATES
        )
        if moment == last:
            return
        self._moment = moment
        self._position = position
        elapsed = 0 if last is None else (moment - last) / _NUM_UPDATES
        gates = [gate for gate in self._gates if gate.built]
        for gate in gates:
            self._steer(gate, elapsed)
        self.history.append(
            {
                "position": position,
                "gates": {
                    label: self.describe(gate)
                    for label, gate in zip(
                        unique_labels(gates), gates, strict=True
                    )
                },
            }
        )

    def describe(self, gate: SmoothStepGate) -> dict[str, float]:
        """What one gate is to do, and what it did on recent training rows.

        Args:
            gate: a gate of the model.

        Returns:
            A dict: `target_cardinality`, where the path is now;
            `training_cardinality`, the mean of recent training rows, and
            `training_within_cap`, their share within the cap, both NaN before
            the first one; `training_entropy`, normalized, of their expert
            usage; `gamma_scale` and `aux_loss_weight`, which are
            controlled; and `held_since`, the position at which the cap
            began to hold for good, NaN while it does not.
        """
        cap = self._cap_of(gate)
        shares = _read_shares(gate.routing_tracker.recent_cardinality)
        usage = _read_shares(gate.routing_tracker.recent_usage)
        counts = np.arange(1, gate.num_experts + 1)
        excess = _wanted_excess(self._position / self._deadline)
        return {
            "target_cardinality": cap * (gate.num_experts / cap) ** excess,
            "training_cardinality": float(shares @ counts),
            "training_within_cap": float(shares[:cap].sum()),
            "training_entropy": _normalized_entropy(usage),
            "gamma_scale": _read(gate.gamma_scale),
            "aux_loss_weight": _read(gate.aux_loss_weight),
            "held_since": self._held_since.get(id(gate), math.nan),
        }

    def _cap_of(self, gate: SmoothStepGate) -> int:
        return min(self.cap or gate.k, gate.num_experts)

    def _steer(self, gate: SmoothStepGate, elapsed: float) -> None:
        cap = self._cap_of(gate)
        shares = _read_shares(gate.routing_tracker.recent_cardinality)
        width = _read(gate.gamma_scale)
        progress = self._position / self._deadline
        within_cap = float(shares[:cap].sum())
        if progress >= 1.0:
            # The records look back on batches of before.
            within_cap = 1.0
            if width > 0.0:
                gate.gamma_scale.assign(0.0)
        elif width > 0.0 and cap < gate.num_experts and shares[0] >= 0.0:
            self._report_saturated(gate, width, shares)
            error = _excess(shares, cap) - _wanted_excess(progress)
            if within_cap >= self.share:
                error = min(error, 0.0)
            move = np.clip(
                _GAIN * elapsed * error, -_LARGEST_MOVE, _LARGEST_MOVE
            )
            gate.gamma_scale.assign(
                np.clip(
                    width * math.exp(-move), _SMALLEST_WIDTH, _LARGEST_WIDTH
                )
            )
        least = (
            _read_shares(gate.routing_tracker.recent_usage).min()
            * gate.num_experts
        )
        pressure = 0.0
        # Only splits can bring experts back, and need their gradient for it.
        if progress < 1.0 and least < _STARVING:
            pressure = _LARGEST_PRESSURE * (1.0 - least / _STARVING)
        gate.aux_loss_weight.assign(pressure)
        if within_cap >= self.share:
            self._held_since.setdefault(id(gate), self._position)
        else:
            self._held_since.pop(id(gate), None)

    def _report_saturated(
        self, gate: SmoothStepGate, width: float, shares: np.ndarray
    ) -> None:
        # Before it was steered; every row has been counted since the start.
        if width == 1.0 and shares[gate.k :].sum() == 0.0:
            warnings.warn(
                f"From the first batch on no row of gate {gate.name!r} used "
                f"more than k={gate.k} of {gate.num_experts} experts: every "
                "split is saturated, and the gradient of all of them is "
                f"exactly zero. Received: gamma={gate.gamma}. The target "
                "widens the smooth-steps until they have one. To start there, "
                "raise `gamma`, normalize the routing inputs, or leave "
                "`kernel_initializer` unset.",
                stacklevel=2,
            )


def _read(variable: Any) -> float:
    return float(tf.convert_to_tensor(variable))


def _read_shares(variable: Any) -> np.ndarray:
    """Shares that sum to one; NaN if nothing was recorded yet."""
    values = tf.convert_to_tensor(variable).numpy().astype("float64")
    total = values.sum()
    return values / total if total > 0.0 else np.full_like(values, np.nan)


def _wanted_excess(progress: float) -> float:
    """The path: experts learn from many rows first, and from few late."""
    return max(1.0 - progress, 0.0) ** _PATH_POWER


def _excess(shares: np.ndarray, cap: int) -> float:
    counts = np.arange(1, len(shares) + 1)
    over = np.maximum(np.log(counts / cap), 0.0) / np.log(len(shares) / cap)
    return float(shares @ over)


def _normalized_entropy(usage: np.ndarray) -> float:
    positive = usage[usage != 0.0]
    entropy = -np.sum(positive * np.log(positive))
    return float(entropy / math.log(len(usage))) if len(usage) > 1 else 1.0

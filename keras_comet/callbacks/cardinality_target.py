"""Steers gates to a cap on the experts per row that holds by a deadline."""

import contextlib
import math
import warnings
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from keras_comet._keras import flatten_layers
from keras_comet._keras import keras
from keras_comet.callbacks.next_train_step import NextTrainStep
from keras_comet.gates.capture import unique_labels
from keras_comet.gates.smooth_step_gate import SmoothStepGate

# Updates until the deadline; each reads a few small variables of every gate.
_NUM_UPDATES = 100

# Soft routing for longer trains better experts, up to where so little is left
# to the end that experts starve as it narrows.
_PATH_POWER = 0.25

# Speed at which the logarithm of the width answers to an error. The excess
# falls from 1 to 0 over about two decades of width, a slope of 0.2, so that
# it follows its path with a lag of 1 / (0.2 * 100), a twentieth of the way.
_GAIN = 100.0

# At most a factor of e in one update, however short the training is.
_LARGEST_MOVE = 1.0

_SMALLEST_SCALE = 1e-9
_LARGEST_SCALE = 1e9

# An expert with less than this part of an even share starves.
_STARVING = 0.1

# Weight of the load balance penalty while an expert gets nothing at all.
_LARGEST_AUX_LOSS_WEIGHT = 0.2


class CardinalityTarget(keras.callbacks.Callback):
    """Makes every row use at most `cap` experts by a step or epoch named.

    For the gates with smooth-steps, `COMETGate` and `DSelectKGate`, however
    many of them the model has. There is nothing to tune: the smooth-steps
    narrow as fast as the cardinality that training shows needs them to, from
    soft routing over all experts to hard routing at the deadline. As hard
    routing is the limit of a vanishing width, nothing jumps there.

    With c the number of experts of a row, the excess is the mean of
    `max(log(c / cap), 0) / log(num_experts / cap)`: 1 while every row uses
    all experts, 0 as soon as none uses too many. With t the time over the
    deadline, the excess is to be `p = (1 - t)^(1/4)`, and `gamma_scale`, the
    width over the gate's `gamma`, follows
    `d log(gamma_scale) / dt = -100 (excess - p)`: narrower when there is too
    much, wider when the gate saturates too early, so that splits which would
    have lost their gradient get one again. At the deadline it becomes 0.
    Splits have no gradient from then on; what weighs the selected experts,
    and the experts, train on.

    Experts that starve, with less than a tenth of an even share, are brought
    back by a load balance penalty. Its weight is 0.2 times what the least
    used expert lacks of that tenth, relative to it; without any that starves,
    there is none. A gate in which every split is saturated from the first
    batch, so that the gradient of all splits is exactly zero, is reported by
    a warning.

    All that training depends on is in two variables of each gate, which are
    saved with it: `gamma_scale`, and `aux_loss_weight`, the weight of the
    penalty. `fit` has the latter on within training steps only: it is 0
    whenever a callback or validation runs, and after the training, however
    that ended.

    In a custom loop, call `set_model(model)` before it, `update(position)`
    after each step, which leaves the penalty on for the next one, and
    `on_train_end()` in a `finally`.

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
        # By the identity of the gate.
        self._aux_loss_weights: dict[int, float] = {}
        self._held_since: dict[int, float] = {}
        self._position = 0.0
        self._moment: int | None = None
        self._epoch_begins_at = 0.0
        self._steps_per_epoch: int | None = None
        self._batch = 0
        self._next_train_step: NextTrainStep | None = None
        self._calls_train_function = True

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
        self._aux_loss_weights.clear()
        self._next_train_step = None
        self._calls_train_function = self.model.train_function is not None

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._epoch_begins_at = float(
            epoch
            if self.by_epoch is not None
            else int(tf.convert_to_tensor(self.model.optimizer.iterations))
        )
        # A loop of the user's own may set none, and Keras 2 has no default.
        steps = (getattr(self, "params", None) or {}).get("steps")
        self._steps_per_epoch = steps or self._steps_per_epoch
        # The start, or where a saved training stopped.
        self._advance(self._epoch_begins_at)

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        if not self._calls_train_function:
            self._assign_aux_loss_weights()
        elif any(self._aux_loss_weights.values()):
            self._next_train_step = NextTrainStep(
                self.model, self._aux_losses()
            )

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self._batch = batch
        step, self._next_train_step = self._next_train_step, None
        if step is not None and step.cancel():
            # A loop with a step of its own, as that of `Trainer`.
            self._calls_train_function = False
        if self.by_epoch is None:
            self._advance(self._epoch_begins_at + batch + 1)
        elif self._steps_per_epoch:
            part = (batch + 1) / self._steps_per_epoch
            self._advance(self._epoch_begins_at + part)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self._steps_per_epoch = self._batch + 1
        if self.by_epoch is not None:
            self._advance(epoch + 1.0)

    def on_train_end(self, logs: Any = None) -> None:
        self._aux_loss_weights.clear()
        self._assign_aux_loss_weights()

    def update(self, position: float) -> None:
        """Steers the gates, a hundred times on the way to the deadline.

        For custom loops; `fit` and `Trainer` need no call.

        Args:
            position: float. Epochs or optimizer steps done, as the deadline
                is counted.
        """
        if self._advance(position):
            self._assign_aux_loss_weights()

    def describe(self, gate: SmoothStepGate) -> dict[str, float]:
        """Says what one gate is to do, and what it did on recent training rows.

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
        measured = gate.routing_tracker.statistics(cap)
        wanted = _wanted_excess(self._position / self._deadline)
        return {
            "target_cardinality": cap * (gate.num_experts / cap) ** wanted,
            "training_cardinality": measured["cardinality"],
            "training_within_cap": measured["within_cap"],
            "training_entropy": measured["normalized_entropy"],
            "gamma_scale": _read(gate.gamma_scale),
            "aux_loss_weight": self._aux_loss_weights.get(id(gate), 0.0),
            "held_since": self._held_since.get(id(gate), math.nan),
        }

    def _advance(self, position: float) -> bool:
        """Steers the gates, if another hundredth of the way is done."""
        last = self._moment
        moment = min(
            int(_NUM_UPDATES * position / self._deadline), _NUM_UPDATES
        )
        if moment == last:
            return False
        self._moment = moment
        self._position = position
        elapsed = 0.0 if last is None else (moment - last) / _NUM_UPDATES
        gates = self._built_gates()
        for gate in gates:
            self._steer(gate, elapsed)
        labels = unique_labels(gates)
        self.history.append(
            {
                "position": position,
                "gates": {
                    label: self.describe(gate)
                    for label, gate in zip(labels, gates, strict=True)
                },
            }
        )
        return True

    def _steer(self, gate: SmoothStepGate, elapsed: float) -> None:
        cap = self._cap_of(gate)
        progress = self._position / self._deadline
        measured = gate.routing_tracker.statistics(cap)
        scale = _read(gate.gamma_scale)
        # Averages still include batches of before the deadline.
        is_held = progress >= 1.0 or measured["within_cap"] >= self.share
        if progress >= 1.0:
            gate.gamma_scale.assign(0.0)
        elif cap < gate.num_experts and not math.isnan(measured["excess"]):
            if scale == 1.0:
                _warn_if_saturated(gate)
            error = measured["excess"] - _wanted_excess(progress)
            if is_held:
                error = min(error, 0.0)
            gate.gamma_scale.assign(_narrow(scale, elapsed * error))
        self._aux_loss_weights[id(gate)] = _aux_loss_weight(
            measured["least_usage"] * gate.num_experts, progress
        )
        if is_held:
            self._held_since.setdefault(id(gate), self._position)
        else:
            self._held_since.pop(id(gate), None)

    def _cap_of(self, gate: SmoothStepGate) -> int:
        return min(self.cap or gate.k, gate.num_experts)

    @contextlib.contextmanager
    def _aux_losses(self) -> Iterator[None]:
        """Has the load balance penalty on meanwhile."""
        try:
            self._assign_aux_loss_weights()
            yield
        finally:
            for gate in self._built_gates():
                gate.aux_loss_weight.assign(0.0)

    def _assign_aux_loss_weights(self) -> None:
        for gate in self._built_gates():
            gate.aux_loss_weight.assign(
                self._aux_loss_weights.get(id(gate), 0.0)
            )

    def _built_gates(self) -> list[SmoothStepGate]:
        return [gate for gate in self._gates if gate.built]


def _wanted_excess(progress: float) -> float:
    """Returns the path: many experts a row for long, and few late."""
    return max(1.0 - progress, 0.0) ** _PATH_POWER


def _narrow(scale: float, error: float) -> float:
    """Returns a scale of gamma that answers to an error, integrated in time.

    Hard routing, a scale of 0, stays.
    """
    move = min(max(_GAIN * error, -_LARGEST_MOVE), _LARGEST_MOVE)
    if scale == 0.0:
        return 0.0
    return min(max(scale * math.exp(-move), _SMALLEST_SCALE), _LARGEST_SCALE)


def _aux_loss_weight(least_share: float, progress: float) -> float:
    """Weighs the load balance penalty, by what the least used expert gets.

    Args:
        least_share: float. Its usage relative to an even one; may be NaN.
        progress: float. Time over the deadline.
    """
    # Only splits can bring experts back, and need their gradient for it.
    if progress < 1.0 and least_share < _STARVING:
        return _LARGEST_AUX_LOSS_WEIGHT * (1.0 - least_share / _STARVING)
    return 0.0


def _warn_if_saturated(gate: SmoothStepGate) -> None:
    # As the scale is that of the start, averages go back to the first row.
    if gate.routing_tracker.statistics(gate.k)["excess"] == 0.0:
        warnings.warn(
            f"From the first batch on no row of gate {gate.name!r} used "
            f"more than k={gate.k} of {gate.num_experts} experts: every "
            "split is saturated, and the gradient of all of them is "
            f"exactly zero. Received: gamma={gate.gamma}. The target "
            "widens the smooth-steps until they have one. To start there, "
            "raise `gamma`, normalize the routing inputs, or leave "
            "`rescale_inputs` on.",
            stacklevel=2,
        )


def _read(variable: Any) -> float:
    return float(tf.convert_to_tensor(variable))

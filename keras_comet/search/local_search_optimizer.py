"""Optimizer wrapper that also searches expert permutations."""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from keras_comet._keras import KERAS_3
from keras_comet._keras import keras
from keras_comet._keras import serializable
from keras_comet.gates.expert_permutation import ExpertPermutation
from keras_comet.gates.expert_permutation import find_permutations
from keras_comet.search.exchange_search import exchange_search
from keras_comet.search.search_report import SearchReport
from keras_comet.search.sinkhorn_search import Schedule
from keras_comet.search.sinkhorn_search import SinkhornSearch

_METHODS = ("exchange", "sinkhorn")

# From spread out to hard, whatever the number of search steps.
_FIRST_TEMPERATURE = 1.0
_LAST_TEMPERATURE = 0.02

# How far Adam can move a logit over the search, and in one step at most.
_WAY_OF_LOGITS = 25.0
_LARGEST_RATE = 0.3


@serializable
class LocalSearchOptimizer(keras.optimizers.Optimizer):
    """Any Keras optimizer, with a search over permutations of experts.

    Which expert sits at which output of a gate matters, and gradient descent
    cannot exchange two of them. During the first `search_steps` updates this
    optimizer searches the permutations of the gates
    (`COMETGate(16, permutation=ExpertPermutation(16))`); after that each is a
    constant that nothing moves. All other variables are the inner
    optimizer's: with the search switched off, or in the method `"exchange"`,
    updates equal those of the inner optimizer bit for bit.

    - `"exchange"` searches when `search` is called, by verified swaps of
      experts, which never raise the loss of the search batch. The callback
      `LocalSearch` calls it, inside `Model.fit` or `Trainer.fit`.
    - `"sinkhorn"` searches within the updates: `P = sinkhorn(logits /
      temperature)` is soft and trained, gets harder as the temperature falls,
      and is rounded exactly by linear assignment at the end.

    Build it with all trainable variables of the model. Under mixed_float16
    `compile()` puts a `LossScaleOptimizer` around it, which skips updates;
    Keras 3 does not count those as search steps, Keras 2 does.

    Reference:
    - [Ibrahim et al., 2023](https://arxiv.org/abs/2306.02824), Section 4.
      Departures: the search by swaps is not the paper's; in `"sinkhorn"`
      the logits have an optimizer and a learning rate of their own, P starts
      half at the current assignment and half spread out, and the temperature
      is high enough to begin with that the search moves.

    Args:
        inner_optimizer: Keras optimizer, or its name.
        search_steps: int. Number of updates during which the search is on;
            0 switches it off.
        method: str. `"exchange"` or `"sinkhorn"`. Defaults to `"exchange"`.
        temperature: float above 0 or Keras learning rate schedule over
            updates, for `"sinkhorn"`. Defaults to `None`: falls from 1 to
            0.02 over the search, exponentially.
        num_iterations: int. Pairs of Sinkhorn normalizations. Defaults to
            `20`.
        permutation_learning_rate: float or Keras learning rate schedule over
            updates, for the logits of `"sinkhorn"`. Defaults to `None`: 25
            divided by the search steps, at most 0.3.
        name: str. Defaults to `"local_search"`.

    Attributes:
        inner_optimizer: the optimizer of everything but the permutations.

    Raises:
        ValueError: If `search_steps` is negative, `method` is unknown, the
            inner optimizer is a `LossScaleOptimizer`, there is nothing for
            `"sinkhorn"` to search when the optimizer is built, or two
            permutations have the same name.

    Example:

    ```python
    import keras
    import numpy as np
    import keras_comet

    gate = keras_comet.TopKGate(
        8, k=2, permutation=keras_comet.ExpertPermutation(8)
    )
    experts = [keras.layers.Dense(1) for _ in range(8)]
    model = keras.Sequential([keras_comet.MixtureOfExperts(experts, gate)])
    optimizer = keras_comet.LocalSearchOptimizer(
        keras.optimizers.Adam(), search_steps=2, method="sinkhorn"
    )
    model.compile(optimizer, loss="mse")
    x = np.ones((64, 4), "float32")
    model.fit(x, x[:, :1], batch_size=16, verbose=0)
    gate.permutation.assignment  # frozen after two of the four updates
    ```
    """

    def __init__(
        self,
        inner_optimizer: Any,
        search_steps: int,
        method: str = "exchange",
        temperature: Schedule = None,
        num_iterations: int = 20,
        permutation_learning_rate: Schedule = None,
        name: str = "local_search",
    ) -> None:
        if KERAS_3:
            super().__init__(learning_rate=0.0, name=name)
        else:
            super().__init__(name=name)
        if not isinstance(search_steps, (int, np.integer)) or search_steps < 0:
            raise ValueError(
                "`search_steps` must be an integer of at least 0, the number "
                "of updates during which the search is on. Received: "
                f"search_steps={search_steps!r}"
            )
        if method not in _METHODS:
            raise ValueError(
                f"`method` must be one of {_METHODS}. "
                f"Received: method={method!r}"
            )
        inner_optimizer = keras.optimizers.get(inner_optimizer)
        if isinstance(
            inner_optimizer, keras.mixed_precision.LossScaleOptimizer
        ):
            raise ValueError(
                "The LossScaleOptimizer goes around the LocalSearchOptimizer, "
                "not inside it: LossScaleOptimizer(LocalSearchOptimizer(...)). "
                "Under mixed_float16, compile() adds it by itself."
            )
        self.inner_optimizer = inner_optimizer
        self.search_steps = int(search_steps)
        self.method = method
        self.temperature = temperature
        self.num_iterations = num_iterations
        self.permutation_learning_rate = permutation_learning_rate
        if permutation_learning_rate is None:
            permutation_learning_rate = min(
                _LARGEST_RATE, _WAY_OF_LOGITS / max(search_steps, 1)
            )
        if temperature is None:
            temperature = keras.optimizers.schedules.ExponentialDecay(
                _FIRST_TEMPERATURE,
                max(search_steps, 1),
                _LAST_TEMPERATURE / _FIRST_TEMPERATURE,
            )
        self._is_built = False
        self._permutations: list[ExpertPermutation] = []
        self._sinkhorn = None
        if method == "sinkhorn" and search_steps > 0:
            self._sinkhorn = SinkhornSearch(
                temperature,
                num_iterations,
                permutation_learning_rate,
                self.search_steps,
                self._count_steps,
            )
            # Checkpoints find what is an attribute of the optimizer itself.
            self._permutation_optimizer = self._sinkhorn.adam

    def _count_steps(self) -> tf.Tensor:
        return tf.cast(
            tf.convert_to_tensor(self.inner_optimizer.iterations), tf.int64
        )

    def search(
        self,
        loss_fn: Callable[[], Any],
        permutations: Sequence[ExpertPermutation],
        max_evaluations: int | None = None,
        max_seconds: float | None = None,
    ) -> SearchReport:
        """Exchanges experts as long as that lowers the loss, and no longer.

        The gradient of the loss with respect to each P ranks candidates: its
        linear assignment, and all swaps of two experts. Each is verified by
        the true loss, a batch of candidates at a time; the best that improves
        is taken, until none of all swaps does, or the budget ends.
        Deterministic. Every candidate is one call of `loss_fn`: wrapped in
        `tf.function` it is much faster.

        Args:
            loss_fn: function without arguments that returns the scalar loss
                of the current model on a search batch, the same each time:
                call the model with `training=False`.
            permutations: list of `ExpertPermutation`, not being searched by
                another method.
            max_evaluations: int. Most candidates to try. Defaults to `None`:
                as many as it takes.
            max_seconds: float. Time after which no further candidate is
                tried. Defaults to `None`.

        Returns:
            A `SearchReport`. The permutations hold the best that was found,
            also when the search is interrupted.

        Raises:
            ValueError: If the method is not `"exchange"`, the search is over
                (more than `search_steps` updates), there is no permutation,
                one is soft, two have the same name, or the loss is no scalar.
        """
        if self.method != "exchange":
            raise ValueError(
                "`search` belongs to the method 'exchange'; 'sinkhorn' "
                "searches during the updates, by itself. Received: "
                f"method={self.method!r}"
            )
        step = int(self._count_steps())
        if step > self.search_steps:
            raise ValueError(
                f"The search is over after {self.search_steps} updates, and "
                "nothing moves the permutations any more. Received: a search "
                f"after {step} updates. Raise `search_steps`."
            )
        _check_names(permutations)
        return exchange_search(
            loss_fn, permutations, max_evaluations, max_seconds
        )

    def build(self, variables: Iterable[Any]) -> None:
        if self._is_built:
            return
        variables = list(variables)
        self._permutations = find_permutations(variables)
        _check_names(self._permutations)
        self.inner_optimizer.build(self._without_permutations(variables))
        if self._sinkhorn is not None:
            if not self._permutations:
                raise ValueError(
                    "There is nothing to search: no gate has a permutation "
                    "that can be trained. Make the gates with "
                    "`permutation=ExpertPermutation(num_experts)`, or set "
                    "search_steps=0."
                )
            # "logits" is the second argument, but has two names.
            logits = [
                self.add_variable_from_reference(
                    each.permutation_weights, "logits"
                )
                for each in self._permutations
            ]
            with tf.init_scope():
                self._sinkhorn.begin(self._permutations, logits, near=True)
        if KERAS_3:
            super().build(variables)
        self._is_built = True

    def _without_permutations(self, variables: Iterable[Any]) -> list[Any]:
        searched = {id(each.permutation_weights) for each in self._permutations}
        return [each for each in variables if id(each) not in searched]

    def apply(
        self,
        grads: Sequence[Any],
        trainable_variables: Sequence[Any] | None = None,
        **kwargs: Any,
    ) -> None:
        variables = trainable_variables or self._trainable_variables
        with tf.init_scope():
            self.build(variables)
        by_variable = {
            id(variable): gradient
            for variable, gradient in zip(variables, grads, strict=True)
        }
        if self._sinkhorn is not None:
            self._sinkhorn.move_logits(
                [
                    by_variable.get(id(each.permutation_weights))
                    for each in self._permutations
                ],
                **kwargs,
            )
        others = self._without_permutations(variables)
        if others:
            self.inner_optimizer.apply_gradients(
                [(by_variable[id(each)], each) for each in others], **kwargs
            )
        else:
            # It counts the updates, but does nothing without variables.
            self.inner_optimizer.iterations.assign_add(1)
        if self._sinkhorn is not None:
            self._sinkhorn.move_permutations(self._permutations)

    def apply_gradients(
        self,
        grads_and_vars: Iterable[tuple[Any, Any]],
        name: str | None = None,
        **kwargs: Any,
    ) -> Any:
        gradients, variables = zip(*grads_and_vars, strict=True)
        self.apply(gradients, variables, **kwargs)
        return self.iterations

    def scale_loss(self, loss: Any) -> Any:
        # Keras 3 alone has it, and calls it.
        return self.inner_optimizer.scale_loss(loss)

    @property
    def variables(self) -> Any:
        variables = list(self._variables)
        variables += list(self.inner_optimizer.variables)
        if self._sinkhorn is not None:
            variables += list(self._sinkhorn.adam.variables)
        # tf_keras has lists that can also be called, and calls them.
        return type(self.inner_optimizer.variables)(variables)

    @property
    def iterations(self) -> Any:
        return self.inner_optimizer.iterations

    @iterations.setter
    def iterations(self, variable: Any) -> None:
        self.inner_optimizer.iterations = variable

    @property
    def learning_rate(self) -> Any:
        return self.inner_optimizer.learning_rate

    @learning_rate.setter
    def learning_rate(self, learning_rate: Any) -> None:
        self.inner_optimizer.learning_rate = learning_rate

    def finalize_variable_values(self, var_list: Any) -> None:
        self.inner_optimizer.finalize_variable_values(
            self._without_permutations(var_list)
        )

    def get_config(self) -> dict[str, Any]:
        serialize = keras.saving.serialize_keras_object
        return {
            "name": self.name,
            "inner_optimizer": serialize(self.inner_optimizer),
            "search_steps": self.search_steps,
            "method": self.method,
            "temperature": serialize(self.temperature),
            "num_iterations": self.num_iterations,
            "permutation_learning_rate": serialize(
                self.permutation_learning_rate
            ),
        }

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: Any = None
    ) -> Any:
        config = dict(config)
        for name in (
            "inner_optimizer",
            "temperature",
            "permutation_learning_rate",
        ):
            if isinstance(config.get(name), dict):
                config[name] = keras.saving.deserialize_keras_object(
                    config[name], custom_objects=custom_objects
                )
        return cls(**config)


def _check_names(permutations: Sequence[ExpertPermutation]) -> None:
    names = sorted(
        each.name
        for each in permutations
        if isinstance(each, ExpertPermutation)
    )
    if len(set(names)) < len(names):
        raise ValueError(
            "The permutations that one optimizer searches must have different "
            f"names. Received: {names}. Name them apart by "
            "`ExpertPermutation(num_experts, name=...)`, or give one object "
            "to all gates that share it."
        )

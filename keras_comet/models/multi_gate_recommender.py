"""The multi-task recommender: features, experts, gates, towers."""

from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from keras_comet._keras import keep_frozen
from keras_comet._keras import keras
from keras_comet._keras import serializable
from keras_comet.containers import LayerDict
from keras_comet.containers import deserialize_layers
from keras_comet.containers import register_user
from keras_comet.containers import serialize_layers
from keras_comet.gates.base import Gate
from keras_comet.gates.comet_gate import COMETGate
from keras_comet.layers.customized_gate_control import CustomizedGateControl
from keras_comet.layers.expert_group import Experts
from keras_comet.layers.multi_gate_mixture_of_experts import (
    MultiGateMixtureOfExperts,
)
from keras_comet.layers.routed_experts import RoutedExperts
from keras_comet.layers.stacked_dense_experts import StackedDenseExperts
from keras_comet.models.check_tasks import check_tasks
from keras_comet.models.feature import Feature
from keras_comet.models.finite import require_finite
from keras_comet.models.infer import infer_features
from keras_comet.models.infer import infer_tasks
from keras_comet.models.node_name import node_name
from keras_comet.models.task import Task
from keras_comet.models.task_model import TaskModel
from keras_comet.models.task_tower import TaskTower

_DIVERGES = "The training diverges: lower the learning rate."


@serializable
class MultiGateRecommender(TaskModel):
    """Multi-task recommender with shared experts and a gate for each task.

    The features are encoded and concatenated, the experts read them, each
    task's gate combines the experts (all of them, or, with `task_experts`,
    the task's own and the shared ones), and each task's tower predicts from
    that. Losses, metrics and weights belong to the tasks, so that
    `compile` needs an optimizer alone. Labels may be missing: by value
    (`Task.missing_label`) or by a sample weight of 0; a task's loss is the
    mean over the examples that have its label, and 0 if none does.

    Reference:
    - [Ma et al., 2018](https://doi.org/10.1145/3219819.3220007), MMoE, with
      any gate; [Tang et al., 2020](https://doi.org/10.1145/3383313.3412236),
      CGC, with `task_experts`; [Ibrahim et al.,
      2023](https://arxiv.org/abs/2306.02824), Section 6.2 for the model.

    Args:
        features: dict from feature name to `CategoricalFeature`,
            `MultiCategoricalFeature`, `SequenceFeature`, `HashedFeature`,
            `NumericFeature`, `BucketizedFeature` or `LayerFeature`.
        experts: list of Keras layers or models with equal output shapes, or
            one `StackedDenseExperts` or `SharedBaseExperts`.
        gates: dict from task name to `Gate`.
        tasks: list of `Task`, the same names.
        tower_units: list of int. Widths of the relu layers of each task's
            tower, before the prediction. Defaults to `(64,)`.
        hash_feature: str. The categorical or hashed feature whose ids gates
            that route by id (`HashGate`) read, as `0 ... num_ids - 1`.
            Defaults to `None`: the first of them.
        dispatch: str. As in `MixtureOfExperts`. Defaults to `"auto"`.
        task_experts: dict from task name to experts of the task's own, as in
            `CustomizedGateControl`: `experts` are the shared ones then, and
            come after its own among the experts of a task's gate. Defaults to
            `None`: all experts are shared.
        loss_balance: str. `"uncertainty"` learns how the tasks' losses are
            weighted ([Kendall et al.,
            2018](https://arxiv.org/abs/1705.07115v3), twice their Eq. (7),
            with s for log sigma^2): the loss is `sum_t exp(-s_t) w_t L_t +
            s_t` with a trainable `s_t`, 0 at first, in `uncertainties[task]`.
            Defaults to `None`: `sum_t w_t L_t`.

    Call arguments:
        inputs: dict from feature name to tensor, of a shape that the feature
            takes: `(batch,)` for most.
        training: bool. Passed on.

    Output shape:
        A dict from task name to `(batch, units)`.

    Raises:
        ValueError: If tasks and gates do not have the same names, a task
            refers to one that is not there, a gate that routes by id has no
            feature to read, `loss_balance` is unknown or has a task of weight
            0 to weigh, labels or features are missing, or one of the layers
            inside objects.
        InvalidArgumentError: Of TensorFlow, if labels, sample weights or, in
            training, encoded features or predictions are not finite; it names
            the task or the feature. What XLA compiles cannot raise.

    Example:

    ```python
    import keras
    import numpy as np
    import keras_comet
    from keras_comet import CategoricalFeature, COMETGate, Task

    model = keras_comet.MultiGateRecommender(
        features={
            "user": CategoricalFeature(["ann", "bob"], embedding_dim=8),
            "item": CategoricalFeature([7, 8, 9], embedding_dim=8),
        },
        experts=[keras.layers.Dense(16, "relu") for _ in range(4)],
        gates={"click": COMETGate(4), "rating": COMETGate(4)},
        tasks=[
            Task("click", "binary_crossentropy", ["AUC"], activation="sigmoid"),
            Task("rating", "mse", missing_label=0.0),
        ],
    )
    model.compile(optimizer="adam")
    x = {"user": np.array(["ann", "eve"]), "item": np.array([9, 7])}
    y = {"click": np.array([1.0, 0.0]), "rating": np.array([4.0, 0.0])}
    model.fit(x, y, verbose=0)
    ```
    """

    def __init__(
        self,
        features: Mapping[str, Feature],
        experts: Experts,
        gates: Mapping[str, Gate],
        tasks: Sequence[Task],
        tower_units: Sequence[int] = (64,),
        hash_feature: str | None = None,
        dispatch: str = "auto",
        task_experts: Mapping[str, Experts] | None = None,
        loss_balance: str | None = None,
        **kwargs: Any,
    ) -> None:
        check_tasks(tasks, gates)
        # Raw features need not fit into half precision.
        super().__init__(tasks, loss_balance, autocast=False, **kwargs)
        if not features:
            raise ValueError(
                "`features` must name at least one feature. Received: {}"
            )
        for name, feature in features.items():
            if not isinstance(feature, Feature):
                raise ValueError(
                    "A feature must be a layer of keras_comet that encodes "
                    "raw values, such as CategoricalFeature or "
                    f"NumericFeature. Received: {feature!r} as {name!r}"
                )
            if feature.weights_name in features:
                raise ValueError(
                    "The weights of a feature must have an input of their "
                    f"own. Received: weights_name={feature.weights_name!r} of "
                    f"{name!r}, which is a feature"
                )
            feature.feature_name = name
        self.features = LayerDict(
            features, dtype=self.dtype_policy, name="features"
        )
        register_user(features.values())
        self.hash_feature = hash_feature
        self._id_feature = self._find_id_feature(gates)
        self.tower_units = list(tower_units)
        self._has_task_experts = task_experts is not None
        options: dict[str, Any] = {
            "gates": {task.name: gates[task.name] for task in tasks},
            "dispatch": dispatch,
            "dtype": self.dtype_policy,
        }
        self.mixture: RoutedExperts = (
            MultiGateMixtureOfExperts(experts, **options)
            if task_experts is None
            else CustomizedGateControl(task_experts, experts, **options)
        )
        self.towers = LayerDict(
            {
                task.name: TaskTower(
                    self.tower_units,
                    task.units,
                    task.activation,
                    dtype=self.dtype_policy,
                    name=node_name(f"{task.name}_tower"),
                )
                for task in tasks
            },
            dtype=self.dtype_policy,
            name="towers",
        )
        self.build()

    @classmethod
    def from_data(
        cls,
        columns: Mapping[str, Any],
        labels: Mapping[str, Any],
        num_experts: int = 8,
        k: int = 2,
        embedding_dim: int = 32,
        expert_units: int = 128,
        features: Mapping[str, Feature] | None = None,
        tasks: Sequence[Task] = (),
        **kwargs: Any,
    ) -> "MultiGateRecommender":
        """Makes a model for columns of data, with a feature for each.

        Strings and integers are ids, embedded by the values in the data:
        `CategoricalFeature`, or `MultiCategoricalFeature` for several in a
        row, where `""` and 0 only fill rows up. Floats are a `NumericFeature`,
        normalized by the data. Labels of 0 and 1 make a binary task, others
        one of regression, its loss divided by the variance of its labels; NaN
        or `None` is a missing label. Experts are `StackedDenseExperts` that
        share a base, gates are `COMETGate`.

        Args:
            columns: dict from feature name to the values of the rows to train
                on: list, array, tensor, or column of pandas or polars.
            labels: dict from task name to the labels of these rows.
            num_experts: int. Number of experts. Defaults to `8`.
            k: int. Number of experts that a row is to use. Defaults to `2`.
            embedding_dim: int. Width of embeddings. Defaults to `32`.
            expert_units: int. Width of an expert. Defaults to `128`.
            features: dict from name to feature, for columns that are to be
                encoded in another way. Defaults to `None`.
            tasks: list of `Task`, for labels that are of another kind.
                Defaults to `()`.
            **kwargs: further arguments of the class; experts and gates too.

        Returns:
            A `MultiGateRecommender`, to be compiled.

        Raises:
            ValueError: If columns are of other kinds or differ in length, or
                features and tasks have names that no column has.

        Example:

        ```python
        import keras_comet

        columns = {"user": ["ann", "bob", "cy"], "age": [31.0, None, 52.0]}
        labels = {"click": [1, 0, 1], "stars": [4.0, None, 5.0]}
        model = keras_comet.MultiGateRecommender.from_data(columns, labels)
        model.compile("adam")
        model.fit(columns, labels, verbose=0)
        ```
        """
        inferred = infer_tasks(labels, tasks)
        arguments = {
            "features": infer_features(columns, features or {}, embedding_dim),
            "experts": StackedDenseExperts(
                num_experts, expert_units, "relu", deviation_scale=0.03
            ),
            "gates": {
                task.name: COMETGate(num_experts, k=k) for task in inferred
            },
            "tasks": inferred,
        }
        return cls(**{**arguments, **kwargs})

    def _find_id_feature(self, gates: Mapping[str, Gate]) -> str | None:
        """Returns the name of the feature whose ids gates read, if any do."""
        readers = {task: gate for task, gate in gates.items() if gate.reads_ids}
        if not readers:
            return None
        categorical = [
            name for name, feature in self.features.items() if feature.gives_ids
        ]
        name = self.hash_feature
        if name is None and categorical:
            name = categorical[0]
        for task, gate in readers.items():
            if name not in categorical:
                raise ValueError(
                    f"The gate of task {task!r} routes by id and needs a "
                    "categorical feature to read. Received: hash_feature="
                    f"{self.hash_feature!r}, features {list(self.features)}"
                )
            num_ids = getattr(gate, "num_ids", None)
            known = self.features[name].num_ids
            if num_ids is not None and num_ids < known:
                raise ValueError(
                    f"The gate of task {task!r} must know all ids of feature "
                    f"{name!r}. Expected: num_ids={known}, which is "
                    f"`features[{name!r}].num_ids`. Received: "
                    f"num_ids={num_ids}"
                )
        return name

    @property
    def experts(self) -> Any:
        """The experts that all tasks share, as given."""
        if self._has_task_experts:
            return self.mixture.shared_experts
        return self.mixture.experts

    @property
    def task_experts(self) -> dict[str, Any] | None:
        """The experts of each task's own, as given, or `None`."""
        return self.mixture.task_experts if self._has_task_experts else None

    @property
    def input_signature(self) -> dict[str, tf.TensorSpec]:
        """What a served model expects, by feature name."""
        specs = {}
        for name, feature in self.features.items():
            specs[name] = feature.input_spec_for_serving
            if feature.weights_name is not None:
                shape = specs[name].shape
                specs[feature.weights_name] = tf.TensorSpec(shape, tf.float32)
        return {
            name: tf.TensorSpec(spec.shape, spec.dtype, node_name(name))
            for name, spec in specs.items()
        }

    def build(self, input_shape: Any = None) -> None:
        if self.mixture.built:
            return
        width = 0
        for feature in self.features.values():
            feature.build()
            width += feature.compute_output_shape((None,))[-1]
        shapes = self._add_routing_inputs((None, width), (None,))
        self.mixture.build(shapes)
        mixtures = self.mixture.compute_output_shape(shapes)
        for task, tower in self.towers.items():
            tower.build(mixtures[task])
        for uncertainty in self.uncertainties.values():
            uncertainty.build()
        keep_frozen(self)
        self.built = True

    def _add_routing_inputs(self, features: Any, ids: Any) -> Any:
        """Pairs features with what each gate reads, if any reads ids."""
        if self._id_feature is None:
            return features
        return features, {
            task: ids if gate.reads_ids else features
            for task, gate in self.mixture.gates.items()
        }

    def call(
        self, inputs: Mapping[str, Any], training: bool | None = None
    ) -> dict[str, tf.Tensor]:
        expected = list(self.input_signature)
        if not isinstance(inputs, Mapping):
            raise ValueError(
                f"Inputs must be a dict with the features {expected}. "
                f"Received: {type(inputs).__name__}"
            )
        missing = [name for name in expected if name not in inputs]
        if missing:
            raise ValueError(
                f"Inputs must hold the features {expected}. "
                f"Received: {list(inputs)}; missing: {missing}"
            )
        ids = None
        encoded = []
        for name, feature in self.features.items():
            if name == self._id_feature:
                values, ids = feature(inputs[name], return_indices=True)
            elif feature.weights_name is not None:
                weights = inputs[feature.weights_name]
                values = feature(inputs[name], weights=weights)
            else:
                values = feature(inputs[name])
            if training:
                values = require_finite(
                    values, f"What feature {name!r} encodes", _DIVERGES
                )
            encoded.append(tf.cast(values, self.compute_dtype))
        mixtures = self.mixture(
            self._add_routing_inputs(tf.concat(encoded, axis=-1), ids),
            training=training,
        )
        outputs = {}
        for task, tower in self.towers.items():
            outputs[task] = tower(mixtures[task])
            times = self._tasks[task].times
            if times is not None:
                outputs[task] *= outputs[times]
        if training:
            for task, values in outputs.items():
                outputs[task] = require_finite(
                    values, f"The predictions of task {task!r}", _DIVERGES
                )
        return outputs

    def compute_output_shape(self, input_shape: Any) -> dict[str, Any]:
        batch = tuple(next(iter(input_shape.values())))[0]
        return {task.name: (batch, task.units) for task in self.tasks}

    def get_config(self) -> dict[str, Any]:
        return {
            # That of keras.Model leaves the dtype policy out in Keras 2.
            **keras.layers.Layer.get_config(self),
            "features": serialize_layers(dict(self.features), self),
            "experts": serialize_layers(self.experts, self),
            "gates": serialize_layers(dict(self.mixture.gates), self),
            "tasks": [task.get_config() for task in self.tasks],
            "tower_units": self.tower_units,
            "hash_feature": self.hash_feature,
            "dispatch": self.mixture.dispatch,
            "task_experts": self.task_experts
            and serialize_layers(self.task_experts, self),
            "loss_balance": self.loss_balance,
            "frozen_towers": [
                [task, key]
                for task, tower in self.towers.items()
                for key, layer in tower.dense.items()
                if not layer.trainable
            ],
        }

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: Any = None
    ) -> "MultiGateRecommender":
        config = dict(config)
        frozen_towers = config.pop("frozen_towers")
        config["tasks"] = [Task.from_config(each) for each in config["tasks"]]
        layers = ("features", "experts", "gates", "task_experts")
        model = cls(**deserialize_layers(config, layers, custom_objects))
        for task, key in frozen_towers:
            model.towers[task].dense[key].trainable = False
        return model

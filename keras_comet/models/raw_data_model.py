"""A model that takes data in every form that Keras takes."""

from typing import Any

import tensorflow as tf

from keras_comet._keras import keras
from keras_comet.models.compiled_loss import unpack_batch
from keras_comet.models.raw_data import complete_weights
from keras_comet.models.raw_data import convert_batch
from keras_comet.models.raw_data import convert_data
from keras_comet.models.raw_data import convert_inputs
from keras_comet.models.raw_data import convert_labels
from keras_comet.models.several_workers import check_workers


class RawDataModel(keras.Model):
    """Converts what it is called on, trained on and asked to predict.

    A subclass gives `input_signature`.
    """

    @property
    def input_signature(self) -> dict[str, tf.TensorSpec]:
        """What a served model expects, by feature name."""
        raise NotImplementedError(
            f"{type(self).__name__} must have `input_signature`."
        )

    def convert_batch(self, batch: Any) -> Any:
        """Converts a batch, or all data, to arrays and tensors.

        Args:
            batch: dict of inputs, or tuple of it, labels and sample weights,
                in any form that `fit` takes.

        Returns:
            A tuple of as many.
        """
        return convert_batch(batch, self.input_signature)

    def __call__(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        inputs = convert_inputs(inputs, self.input_signature)
        return super().__call__(inputs, *args, **kwargs)

    def fit(
        self, x: Any = None, y: Any = None, *args: Any, **kwargs: Any
    ) -> Any:
        check_workers(
            self,
            "fit",
            "Use `keras_comet.Trainer` and `MultiWorkerMirroredStrategy`.",
        )
        data = kwargs.get("validation_data")
        if isinstance(data, (list, tuple)):
            data = self.convert_batch(data)
        kwargs["validation_data"] = convert_data(data, self.input_signature)
        return super().fit(*self._convert(x, y, kwargs), *args, **kwargs)

    def evaluate(
        self, x: Any = None, y: Any = None, *args: Any, **kwargs: Any
    ) -> Any:
        check_workers(
            self, "evaluate", "Evaluate saved weights in a process of its own."
        )
        return super().evaluate(*self._convert(x, y, kwargs), *args, **kwargs)

    def predict(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        x = convert_data(x, self.input_signature)
        return super().predict(x, *args, **kwargs)

    def train_on_batch(
        self, x: Any, y: Any = None, sample_weight: Any = None, **kwargs: Any
    ) -> Any:
        kwargs["sample_weight"] = sample_weight
        return super().train_on_batch(*self._convert(x, y, kwargs), **kwargs)

    def test_on_batch(
        self, x: Any, y: Any = None, sample_weight: Any = None, **kwargs: Any
    ) -> Any:
        kwargs["sample_weight"] = sample_weight
        return super().test_on_batch(*self._convert(x, y, kwargs), **kwargs)

    def predict_on_batch(self, x: Any) -> Any:
        return super().predict_on_batch(convert_inputs(x, self.input_signature))

    def _maybe_symbolic_build(
        self, iterator: Any = None, data_batch: Any = None
    ) -> None:
        """Builds losses and metrics, of any data, on any number of replicas.

        Under a strategy Keras 3 begins by a mean over the replicas' data,
        which ids do not have, and by labels that have not been masked.
        """
        strategy = self.distribute_strategy
        if strategy.num_replicas_in_sync > 1:
            if iterator is not None:
                data_batch = next(next(iter(iterator))[-1])
            data_batch = unpack_batch(
                self,
                tf.nest.map_structure(
                    lambda each: strategy.experimental_local_results(each)[0],
                    data_batch,
                ),
            )
            iterator = None
        super()._maybe_symbolic_build(iterator, data_batch)

    def _convert(
        self, x: Any, y: Any, kwargs: dict[str, Any]
    ) -> tuple[Any, Any]:
        """Converts data, and the sample weights among other arguments."""
        if "sample_weight" in kwargs:
            kwargs["sample_weight"] = complete_weights(
                kwargs["sample_weight"], y
            )
        return convert_data(x, self.input_signature), convert_labels(y)

"""What every data set loader returns, and how its rows are divided."""

import dataclasses
import itertools
from typing import Any
from typing import NamedTuple

import numpy as np
import tensorflow as tf


class Split(NamedTuple):
    """Features and labels of some rows, by name.

    Args:
        features: dict of arrays of equal length, one row per example.
        labels: dict of arrays, one per task, as long as the features.

    Example:

    ```python
    import numpy as np
    from keras_comet.datasets import Split

    split = Split({"x": np.arange(5)}, {"task": np.zeros(5)})
    for features, labels in split.batches(2, shuffle=True):
        print(features["x"].numpy(), labels["task"].numpy())
    ```
    """

    features: dict[str, np.ndarray]
    labels: dict[str, np.ndarray]

    @property
    def num_rows(self) -> int:
        """The number of rows, equal for every feature and label.

        Raises:
            ValueError: If two arrays differ in length or there is none.
        """
        named = itertools.chain(self.features.items(), self.labels.items())
        lengths = {name: len(array) for name, array in named}
        if len(set(lengths.values())) != 1:
            raise ValueError(
                "Expected features and labels of one common length. "
                f"Received: lengths={lengths}. Give every array one row per "
                "example."
            )
        return next(iter(lengths.values()))

    def batches(
        self, batch_size: int, *, shuffle: bool = False, seed: int = 0
    ) -> tf.data.Dataset:
        """Batches of `(features, labels)`, the last one possibly smaller.

        Only row numbers are shuffled, all of them, and every batch is gathered
        in one step: 3 times (MovieLens-100k) to 8 times (Census-Income) as
        many rows per second as slicing row by row, measured on two cores. The
        tuner of `tf.data` is off in all that is made of them.

        Args:
            batch_size: int. Rows per batch.
            shuffle: bool. Whether each pass over the data has another order.
                Defaults to `False`.
            seed: int. Fixes the sequence of orders, together with
                `tf.random.set_seed` where that is called. Defaults to `0`.

        Returns:
            A `tf.data.Dataset` of pairs of dicts, of known cardinality.

        Raises:
            ValueError: If `batch_size` is not positive or the arrays differ in
                length.
        """
        if batch_size < 1:
            raise ValueError(
                "Expected a positive number of rows per batch. "
                f"Received: batch_size={batch_size}. Use 1 or more."
            )
        rows = tf.data.Dataset.range(self.num_rows)
        if shuffle:
            rows = rows.shuffle(self.num_rows, seed=seed)
        columns = tf.nest.map_structure(
            tf.convert_to_tensor, (self.features, self.labels)
        )

        def gather(batch_rows: tf.Tensor) -> Any:
            return tf.nest.map_structure(
                lambda column: tf.gather(column, batch_rows), columns
            )

        # TensorFlow's tuner sleeps for up to a minute, and the end of a pass
        # waits until it wakes up.
        options = tf.data.Options()
        options.autotune.enabled = False
        return (
            rows.batch(batch_size)
            .map(gather, num_parallel_calls=tf.data.AUTOTUNE)
            .prefetch(tf.data.AUTOTUNE)
            .with_options(options)
        )


@dataclasses.dataclass(frozen=True, eq=False)
class MultitaskDataset:
    """Three splits of one data set and what its values mean.

    Args:
        name: str. Name of the loader that made it.
        train: `Split`. Rows to fit a model on.
        validation: `Split`. Rows to choose a model by.
        test: `Split`. Rows to report on.
        vocabularies: dict from categorical feature to its sorted distinct
            values, over all of the raw data.
        descriptions: dict from feature to a dict from value to text, such as
            the titles of movies. Defaults to `{}`.
        ground_truth: dict of arrays that only made-up data can know. Defaults
            to `{}`.

    Raises:
        ValueError: If the splits differ in the names of their features or
            labels, or if arrays within a split differ in length.

    Example:

    ```python
    from keras_comet import datasets

    data = datasets.synthetic_multitask(num_rows=100)
    print(data.train.num_rows, data.validation.num_rows, data.test.num_rows)
    print(data.vocabularies["group_id"])
    ```
    """

    name: str
    train: Split
    validation: Split
    test: Split
    vocabularies: dict[str, np.ndarray]
    descriptions: dict[str, dict[Any, str]] = dataclasses.field(
        default_factory=dict, repr=False
    )
    ground_truth: dict[str, np.ndarray] = dataclasses.field(
        default_factory=dict
    )

    def __post_init__(self) -> None:
        names = {}
        for split in ("train", "validation", "test"):
            rows: Split = getattr(self, split)
            _ = rows.num_rows  # raises where lengths differ
            names[split] = (sorted(rows.features), sorted(rows.labels))
        if not names["train"] == names["validation"] == names["test"]:
            raise ValueError(
                "Expected the same features and labels in every split. "
                f"Received: names={names}. Add what is missing or drop it "
                "everywhere."
            )


def hold_out(
    strata: np.ndarray, fraction: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draws the same share of every stratum at random.

    Args:
        strata: array `(rows,)`. Rows of equal value form a stratum.
        fraction: float. Share of each stratum to hold out.
        rng: `np.random.Generator`. Source of the draw.

    Returns:
        Numbers of the rows that stay and of those held out, both in random
        order.

    Example:

    ```python
    import numpy as np
    from keras_comet.datasets.multitask_dataset import hold_out

    strata = np.repeat([0, 1], [80, 20])
    kept, held_out = hold_out(strata, 0.1, np.random.default_rng(0))
    print(np.bincount(strata[held_out]))  # [8 2]
    ```
    """
    is_held_out = np.zeros(len(strata), dtype=bool)
    for stratum in np.unique(strata):
        rows = rng.permutation(np.flatnonzero(strata == stratum))
        is_held_out[rows[: round(fraction * len(rows))]] = True
    return (
        rng.permutation(np.flatnonzero(~is_held_out)),
        rng.permutation(np.flatnonzero(is_held_out)),
    )


def take_rows(split: Split, rows: np.ndarray) -> Split:
    """Makes a split of the numbered rows of another one.

    Args:
        split: `Split`. Where the rows come from.
        rows: int array. Row numbers, in the order wanted.

    Returns:
        A `Split` that shares no memory with the given one.

    Example:

    ```python
    import numpy as np
    from keras_comet.datasets import Split
    from keras_comet.datasets.multitask_dataset import take_rows

    split = Split({"x": np.arange(5)}, {"task": np.zeros(5)})
    print(take_rows(split, np.array([4, 0])).features["x"])  # [4 0]
    ```
    """
    return Split(
        {name: array[rows] for name, array in split.features.items()},
        {name: array[rows] for name, array in split.labels.items()},
    )


def split_in_order(rows: Split) -> tuple[Split, Split, Split]:
    """Splits rows that are in random order already.

    Args:
        rows: `Split`. All rows.

    Returns:
        The first 80 % for training, a tenth for validation, and a tenth for
        the test.
    """
    num_rows = rows.num_rows
    tenth = num_rows // 10
    train, validation, test = np.split(
        np.arange(num_rows), [num_rows - 2 * tenth, num_rows - tenth]
    )
    return (
        take_rows(rows, train),
        take_rows(rows, validation),
        take_rows(rows, test),
    )

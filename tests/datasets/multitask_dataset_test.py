import numpy as np
import pytest
import tensorflow as tf

from keras_comet.datasets.multitask_dataset import MultitaskDataset
from keras_comet.datasets.multitask_dataset import Split
from keras_comet.datasets.multitask_dataset import hold_out
from keras_comet.datasets.multitask_dataset import take_rows


def _split(num_rows: int = 23) -> Split:
    rows = np.arange(num_rows)
    return Split(
        features={
            "row": rows,
            "name": np.array([f"row {row}" for row in rows], dtype=object),
            "x": np.stack([rows, -rows], axis=1).astype(np.float32),
        },
        labels={"task": (10 * rows).astype(np.float32)},
    )


def _order(batches: tf.data.Dataset) -> list[int]:
    return [int(row) for features, _ in batches for row in features["row"]]


def test_batches_unshuffled_keeps_order_and_partial_batch() -> None:
    batches = _split().batches(5)
    sizes = [len(features["row"]) for features, _ in batches]
    assert sizes == [5, 5, 5, 5, 3]
    assert _order(batches) == list(range(23))
    assert batches.cardinality() == 5


def test_end_of_a_pass_waits_for_no_tuner() -> None:
    assert _split().batches(5).options().autotune.enabled is False


def test_batches_shuffled_covers_each_row_once() -> None:
    order = _order(_split().batches(5, shuffle=True))
    assert order != list(range(23))
    assert sorted(order) == list(range(23))


def test_batches_shuffled_keeps_rows_together() -> None:
    for features, labels in _split().batches(4, shuffle=True):
        rows = features["row"].numpy()
        assert features["name"].numpy().tolist() == [
            f"row {row}".encode() for row in rows
        ]
        np.testing.assert_array_equal(features["x"][:, 1], -rows)
        np.testing.assert_array_equal(labels["task"], 10 * rows)


def test_batches_shuffled_reshuffles_each_epoch() -> None:
    batches = _split().batches(5, shuffle=True)
    assert _order(batches) != _order(batches)


def test_batches_same_seed_repeats_every_epoch() -> None:
    first = _split().batches(5, shuffle=True, seed=3)
    second = _split().batches(5, shuffle=True, seed=3)
    for _ in range(3):
        assert _order(first) == _order(second)


def test_batches_other_seed_differs() -> None:
    first = _split().batches(5, shuffle=True, seed=3)
    second = _split().batches(5, shuffle=True, seed=4)
    assert _order(first) != _order(second)


def test_batches_nonpositive_size_raises() -> None:
    with pytest.raises(ValueError, match="batch_size=0"):
        _split().batches(0)


def test_num_rows_unequal_lengths_raises() -> None:
    split = Split({"x": np.zeros(3)}, {"task": np.zeros(2)})
    with pytest.raises(ValueError, match="'x': 3, 'task': 2"):
        _ = split.num_rows


def test_multitask_dataset_differing_names_raises() -> None:
    other = Split({"x": np.zeros(3)}, {"task": np.zeros(3)})
    with pytest.raises(ValueError, match="same features and labels"):
        MultitaskDataset("name", _split(), _split(), other, {})


def test_multitask_dataset_is_frozen() -> None:
    data = MultitaskDataset("name", _split(), _split(), _split(), {})
    with pytest.raises(AttributeError):
        data.name = "other"  # type: ignore[misc]


def test_hold_out_takes_the_same_share_of_each_stratum() -> None:
    strata = np.repeat([0, 1, 2], [100, 40, 10])
    kept, held_out = hold_out(strata, 0.1, np.random.default_rng(0))
    assert np.bincount(strata[held_out]).tolist() == [10, 4, 1]
    assert sorted([*kept, *held_out]) == list(range(150))
    assert kept.tolist() != sorted(kept)


def test_take_rows_selects_in_order() -> None:
    split = take_rows(_split(), np.array([4, 0]))
    assert split.features["name"].tolist() == ["row 4", "row 0"]
    assert split.labels["task"].tolist() == [40.0, 0.0]

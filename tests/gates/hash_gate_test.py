import numpy as np
import pytest
import tensorflow as tf

import keras_comet
from tests import reference


def experts_of(gate, ids):
    weights = np.asarray(gate(ids))
    np.testing.assert_array_equal(np.sort(weights)[..., :-1], 0.0)
    np.testing.assert_array_equal(weights.max(-1), 1.0)
    return weights.argmax(-1)


@pytest.mark.parametrize(("num_ids", "n"), [(12, 4), (13, 4), (3, 5), (1, 1)])
def test_table_is_even_seeded_and_stored(num_ids, n):
    gates = [
        keras_comet.HashGate(n, num_ids=num_ids, seed=seed)
        for seed in (1, 1, 2)
    ]
    ids = np.arange(num_ids)
    first, again, other = (experts_of(gate, ids) for gate in gates)
    counts = np.bincount(first, minlength=n)
    assert counts.max() - counts.min() <= 1
    np.testing.assert_array_equal(first, again)
    assert num_ids < 12 or (first != other).any()
    [table] = gates[0].weights
    np.testing.assert_array_equal(table, first)
    assert not gates[0].trainable_weights


def test_assigning_to_the_table_changes_routing():
    gate = keras_comet.HashGate(3, num_ids=4)
    gate(np.array([0]))
    gate.assignment.assign([2, 2, 0, 1])
    np.testing.assert_array_equal(experts_of(gate, np.arange(4)), [2, 2, 0, 1])


def test_hash_follows_split_mix_for_unseen_and_negative_ids():
    ids = np.array([0, 5, -5, 10**12, -(2**63)])
    expected = [
        (reference.split_mix_64(int(each) % 2**64, 3) >> 33) % 6 for each in ids
    ]
    gate = keras_comet.HashGate(6, seed=3)
    np.testing.assert_array_equal(experts_of(gate, ids), expected)
    assert not gate.weights


def test_hash_follows_sip_hash_for_strings():
    words = ["user 1", "user 2", "ärger", ""]
    expected = [reference.sip_hash((3, 6), w.encode()) % 6 for w in words]
    gate = keras_comet.HashGate(6, seed=3)
    np.testing.assert_array_equal(
        experts_of(gate, tf.constant(words)), expected
    )


@pytest.mark.parametrize("num_ids", [None, 20])
def test_ids_may_have_a_trailing_axis_of_one(num_ids):
    gate = keras_comet.HashGate(4, num_ids=num_ids)
    ids = np.arange(20)
    assert gate(ids[:, np.newaxis]).shape == (20, 4)
    np.testing.assert_array_equal(gate(ids[:, np.newaxis]), gate(ids))


@pytest.mark.parametrize("num_ids", [None, 20])
def test_tokens_are_routed_one_by_one(num_ids):
    gate = keras_comet.HashGate(4, num_ids=num_ids)
    ids = np.arange(20)
    np.testing.assert_array_equal(
        gate(ids.reshape(5, 4)), gate(ids).numpy().reshape(5, 4, 4)
    )


@pytest.mark.parametrize("bad", [-1, 5, 2**40])
def test_id_out_of_range_raises(bad):
    gate = keras_comet.HashGate(3, num_ids=5)
    ids = tf.constant([0, bad], tf.int64)
    with pytest.raises(ValueError, match=f"ids 0 to 4.*id {bad}"):
        gate(ids)
    with pytest.raises(tf.errors.InvalidArgumentError, match="ids 0 to 4"):
        tf.function(gate)(ids)


@pytest.mark.parametrize("ids", [np.array([0.5, 1.0]), tf.constant(["a"])])
def test_table_takes_integers_only(ids):
    with pytest.raises(ValueError, match="integer ids.*dtype (float|string)"):
        keras_comet.HashGate(3, num_ids=5)(ids)


def test_hash_takes_no_floats():
    with pytest.raises(ValueError, match="integers or strings.*float"):
        keras_comet.HashGate(3)(np.array([1.5]))


def test_lone_id_without_batch_axis_raises():
    with pytest.raises(ValueError, match="batch axis"):
        keras_comet.HashGate(3)(tf.constant(7))


def test_num_ids_below_one_raises():
    with pytest.raises(ValueError, match="num_ids=0"):
        keras_comet.HashGate(3, num_ids=0)

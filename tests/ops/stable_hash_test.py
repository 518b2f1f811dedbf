import numpy as np
import pytest
import tensorflow as tf

from keras_comet.ops import stable_hash
from tests import reference


def test_reference_hashes_match_published_vectors():
    # SplitMix64 of the state 1234567, as listed on Rosetta Code; SipHash-2-4
    # of the bytes 0 to 14 under the key 0 to 15, from the SipHash paper.
    numbers = [reference.split_mix_64(1234567, count) for count in (1, 2, 3)]
    assert numbers == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
    ]
    key = (0x0706050403020100, 0x0F0E0D0C0B0A0908)
    assert reference.sip_hash(key, bytes(range(15))) == 0xA129CA6149BE45E5


@pytest.mark.parametrize("seed", [0, 1, 12345, -3])
@pytest.mark.parametrize("num_buckets", [1, 5, 16])
def test_integers_go_where_split_mix_sends_them(num_buckets, seed):
    ids = [0, 1, 17, 2**40, 2**63 - 1, -1, -17, -(2**63)]
    expected = [
        (reference.split_mix_64(each % 2**64, seed) >> 33) % num_buckets
        for each in ids
    ]
    found = stable_hash(tf.constant(ids, tf.int64), num_buckets, seed)
    assert found.dtype == tf.int32
    np.testing.assert_array_equal(found, expected)


def test_buckets_are_pinned():
    # From the reference hashes: a change here reroutes models in use.
    np.testing.assert_array_equal(
        stable_hash(tf.constant([0, 1, 2, 3, 4, -1]), 16, 7),
        [15, 6, 13, 1, 2, 12],
    )
    np.testing.assert_array_equal(
        stable_hash(tf.constant(["ann", "bob", "", "日本"]), 16, 7),
        [6, 15, 2, 8],
    )


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "int64"])
def test_an_id_goes_to_the_same_bucket_in_every_integer_type(dtype):
    ids = np.arange(100)
    np.testing.assert_array_equal(
        stable_hash(tf.constant(ids, dtype), 8, 3),
        stable_hash(tf.constant(ids, "int64"), 8, 3),
    )


@pytest.mark.parametrize("seed", [0, 1, -1])
def test_strings_go_where_sip_hash_sends_them(seed):
    words = ["", "a", "user 1", "exactly8", "longer than eight", "日本"]
    key = (seed % 2**63, 5)
    expected = [reference.sip_hash(key, word.encode()) % 5 for word in words]
    np.testing.assert_array_equal(
        stable_hash(tf.constant(words), 5, seed), expected
    )


@pytest.mark.parametrize("kind", ["int64", "string"])
def test_buckets_are_even_and_seeds_unrelated(kind):
    ids = np.arange(8000)
    ids = tf.constant(ids if kind == "int64" else ids.astype(str))
    first, second = (stable_hash(ids, 8, seed).numpy() for seed in (0, 1))
    # 1000 +- 5 standard deviations of sqrt(8000 * 1/8 * 7/8) = 30.
    assert np.abs(np.bincount(first, minlength=8) - 1000).max() < 150
    # Independent mappings agree on 1/8 of the ids.
    assert abs((first == second).mean() - 1 / 8) < 0.02


def test_graphs_and_xla_hash_alike():
    ids = tf.range(100)
    expected = stable_hash(ids, 8, 3)
    for jit_compile in (False, True):
        hashed = tf.function(
            lambda: stable_hash(ids, 8, 3), jit_compile=jit_compile
        )()
        np.testing.assert_array_equal(hashed, expected)


@pytest.mark.parametrize("dtype", ["float32", "bool"])
def test_other_types_are_refused(dtype):
    with pytest.raises(ValueError, match=f"integers or strings.*{dtype}"):
        stable_hash(tf.cast([0, 1], dtype), 4, 0)

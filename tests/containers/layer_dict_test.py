import numpy as np
import pytest
import tensorflow as tf

from keras_comet._keras import keras
from keras_comet.containers import LayerDict
from tests.helpers import rows

KEYS = ["click", "name", "two words", "a/b", "vars", "%2F", "", "."]


class Holder(keras.Model):
    """Adds up what the layers of a dict return."""

    def __init__(self, keys):
        super().__init__()
        self.held = LayerDict({key: keras.layers.Dense(2) for key in keys})

    def call(self, inputs):
        return tf.add_n([layer(inputs) for layer in self.held.values()])


def make_holder(keys, seed):
    holder = Holder(keys)
    holder(tf.zeros([1, 3]))
    for index, weight in enumerate(holder.weights):
        weight.assign(rows(*weight.shape, seed=10 * seed + index))
    return holder


def test_reads_like_a_dict_in_the_order_given():
    layers = {key: keras.layers.Dense(2) for key in KEYS}
    held = LayerDict(layers)
    assert list(held) == held.keys() == KEYS
    assert dict(held) == dict(held.items()) == layers
    assert held.values() == list(layers.values())
    assert len(held) == len(KEYS)
    assert held["two words"] is held.get("two words") is layers["two words"]
    assert "a/b" in held and "b" not in held and 3 not in held
    assert held.get("b") is None
    with pytest.raises(KeyError, match="'b'"):
        held["b"]


@pytest.mark.parametrize("way", ["checkpoint", "weights"])
def test_weights_are_stored_by_key(way, tmp_path):
    saved, other = make_holder(KEYS, 1), make_holder(KEYS[::-1], 2)
    if way == "checkpoint":
        tf.train.Checkpoint(model=saved).write(str(tmp_path / "model"))
        status = tf.train.Checkpoint(model=other).read(str(tmp_path / "model"))
        status.assert_consumed()
    else:
        saved.save_weights(tmp_path / "model.weights.h5")
        other.load_weights(tmp_path / "model.weights.h5")
    for key in KEYS:
        for found, expected in zip(
            other.held[key].get_weights(),
            saved.held[key].get_weights(),
            strict=True,
        ):
            np.testing.assert_array_equal(found, expected)


def test_weights_of_other_keys_are_an_error(tmp_path):
    make_holder(["click"], 1).save_weights(tmp_path / "model.weights.h5")
    with pytest.raises((ValueError, KeyError)):
        make_holder(["buy"], 2).load_weights(tmp_path / "model.weights.h5")

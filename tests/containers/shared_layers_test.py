"""Layers that several of our layers share are shared by their copies too."""

import copy
import json

import numpy as np
import pytest
import tensorflow as tf

import keras_comet
from keras_comet._keras import keras
from tests.helpers import rows


def make_model(stacked=False):
    """Two mixtures with one expert, or all of them, in common."""
    if stacked:
        first = second = keras_comet.StackedDenseExperts(2, 3)
    else:
        shared = keras.layers.Dense(3)
        first = [shared, keras.layers.Dense(3)]
        second = [keras.layers.Dense(3), shared]
    inputs = keras.Input((4,))
    one = keras_comet.MixtureOfExperts(
        first, keras_comet.TopKGate(2), name="one"
    )
    two = keras_comet.MultiGateMixtureOfExperts(
        second, {"task": keras_comet.SoftmaxGate(2)}, name="two"
    )
    model = keras.Model(inputs, [one(inputs), two(inputs)["task"]])
    for index, weight in enumerate(model.trainable_weights):
        weight.assign(rows(*weight.shape, seed=index))
    return model


def shared_experts(model):
    """The expert that both mixtures should have, as each has it."""
    first, second = (model.get_layer(name).experts for name in ("one", "two"))
    return (first[0], second[1]) if isinstance(first, list) else (first, second)


def reload_keras(model, path):
    model.save(path / "model.keras")
    return keras.models.load_model(path / "model.keras")


def clone(model, path):
    other = keras.models.clone_model(model)
    model.save_weights(path / "model.weights.h5")
    other.load_weights(path / "model.weights.h5")
    return other


def rebuild(model, path):
    other = keras.Model.from_config(model.get_config())
    tf.train.Checkpoint(model=model).write(str(path / "checkpoint"))
    status = tf.train.Checkpoint(model=other).read(str(path / "checkpoint"))
    status.assert_existing_objects_matched()
    return other


@pytest.mark.parametrize("stacked", [False, True])
@pytest.mark.parametrize("way", [reload_keras, clone, rebuild])
def test_a_shared_expert_is_shared_again(way, stacked, tmp_path):
    model = make_model(stacked)
    copies = [way(model, tmp_path) for _ in range(2)]
    owned = []
    for other in (model, *copies):
        first, second = shared_experts(other)
        assert first is second
        owned.append(first)
        assert len(other.weights) == len(model.weights)
    assert len({id(each) for each in owned}) == 3
    x = rows(5, 4)
    for other in copies:
        for found, expected in zip(other(x), model(x), strict=True):
            np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_renamed_copy_of_one_mixture_stands_alone():
    model = make_model()
    config = model.get_layer("one").get_config()
    copies = [
        keras_comet.MixtureOfExperts.from_config({**config, "name": name})
        for name in ("one", "one", "three", "four")
    ]
    experts = [each.experts[0] for each in (model.get_layer("two"), *copies)]
    assert len({id(each) for each in experts}) == 5


def test_experts_of_equal_names_are_not_confused(tmp_path):
    inputs = keras.Input((4,))
    outputs = [
        keras_comet.MixtureOfExperts(
            [keras.layers.Dense(3, name=f"expert_{e}") for e in range(2)],
            keras_comet.TopKGate(2),
        )(inputs)
        for _ in range(2)
    ]
    model = keras.Model(inputs, outputs)
    x = rows(5, 4)
    for way in (reload_keras, clone):
        other = way(model, tmp_path)
        for found, expected in zip(other(x), model(x), strict=True):
            np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_deep_copy_has_a_key_of_its_own():
    expert = keras.layers.Dense(3)
    keys = []
    for layer in (expert, copy.deepcopy(expert)):
        moe = keras_comet.MixtureOfExperts([layer], keras_comet.SoftmaxGate(1))
        keys.append(moe.get_config()["experts"][0]["shared_object_id"])
    assert keys[0] != keys[1]


def test_gates_share_a_permutation_that_comes_as_json():
    permutation = keras_comet.ExpertPermutation(3)
    moe = keras_comet.MultiGateMixtureOfExperts(
        [keras.layers.Dense(2) for _ in range(3)],
        {
            "click": keras_comet.TopKGate(3, permutation=permutation),
            "buy": keras_comet.TopKGate(3),
            "rate": keras_comet.TopKGate(3, permutation=permutation),
        },
    )
    config = json.loads(json.dumps(moe.get_config()))
    for _ in range(2):
        other = keras_comet.MultiGateMixtureOfExperts.from_config(config)
        gates = other.gates
        assert gates["click"].permutation is gates["rate"].permutation
        assert gates["click"].permutation is not permutation
        assert gates["buy"].permutation is None
        config = json.loads(json.dumps(other.get_config()))

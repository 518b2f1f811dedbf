"""Layers that several of our layers share are shared by their copies too."""

import copy
import gc
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


def make_two(expert):
    """Two mixtures of one expert."""
    gates = [keras_comet.SoftmaxGate(1) for _ in range(2)]
    return [keras_comet.MixtureOfExperts([expert], gate) for gate in gates]


def rebuild_each(layers):
    return [type(each).from_config(each.get_config()) for each in layers]


def expert_keys(moes):
    configs = [moe.get_config()["experts"][0] for moe in moes]
    return {each["shared_object_id"] for each in configs}


def test_a_renamed_copy_and_one_of_another_user_stay_apart():
    moes = make_two(keras.layers.Dense(3))
    config = {**moes[0].get_config(), "name": "renamed"}
    renamed = keras_comet.MixtureOfExperts.from_config(config)
    second, first = rebuild_each(reversed(moes))
    assert first.experts[0] is second.experts[0] is not renamed.experts[0]


def test_a_copy_of_one_user_alone_stays_apart():
    moes = make_two(keras.layers.Dense(3))
    [alone] = rebuild_each(moes[:1])
    first, second = rebuild_each(moes)
    assert first.experts[0] is second.experts[0] is not alone.experts[0]


def test_a_deep_copy_is_shared_by_its_own_users():
    expert = keras.layers.Dense(3)
    moes = make_two(expert)
    rebuilt = rebuild_each(moes)
    others = make_two(copy.deepcopy(expert))
    rebuilt += rebuild_each(others)
    first, second, third, fourth = (moe.experts[0] for moe in rebuilt)
    assert first is second
    assert third is fourth
    assert first is not third
    [key], [other_key] = expert_keys(moes), expert_keys(others)
    assert key != other_key


def test_deep_copies_of_users_share_in_copies():
    moes = copy.deepcopy(make_two(keras.layers.Dense(3)))
    # Keras 3 copies a layer by a file of its own, and so shares nothing.
    shared = moes[0].experts[0] is moes[1].experts[0]
    assert len({id(moe.experts[0]) for moe in moes}) == 2 - shared
    rebuilt = rebuild_each(moes)
    assert len({id(moe.experts[0]) for moe in rebuilt}) == 2 - shared
    if shared:
        assert len(expert_keys(moes)) == 1


def make_recommender(features, experts, gate):
    task = keras_comet.Task("click", loss="mse")
    return keras_comet.MultiGateRecommender(
        features, experts, {"click": gate}, [task]
    )


def test_two_recommenders_share_all_again():
    features = {"age": keras_comet.NumericFeature([0.0], [1.0])}
    experts = keras_comet.StackedDenseExperts(2, 3)
    gate = keras_comet.SoftmaxGate(2)
    models = [make_recommender(features, experts, gate) for _ in range(2)]
    for _ in range(2):
        models += rebuild_each(models[:2])
    for made in (
        [model.features["age"] for model in models],
        [model.experts for model in models],
        [model.mixture.gates["click"] for model in models],
    ):
        assert [made.index(each) for each in made] == [0, 0, 2, 2, 4, 4]


@pytest.mark.parametrize("name", ["gate", "shared_gate"])
def test_two_mixtures_share_a_gate_again(name):
    gate = keras_comet.SoftmaxGate(2)

    def make():
        experts = [keras.layers.Dense(3) for _ in range(2)]
        if name == "gate":
            return keras_comet.MixtureOfExperts(experts, gate)
        return keras_comet.CustomizedGateControl(
            {"click": experts[:1]},
            experts[1:],
            {"click": keras_comet.SoftmaxGate(2)},
            shared_gate=gate,
        )

    first, second = rebuild_each([make(), make()])
    assert getattr(first, name) is getattr(second, name) is not gate


def test_a_layer_with_one_user_has_no_key():
    [first, _] = make_two(keras.layers.Dense(3))
    gate = keras_comet.SoftmaxGate(
        2, permutation=keras_comet.ExpertPermutation(2)
    )
    own = keras_comet.MixtureOfExperts(
        [keras.layers.Dense(3), first], gate, name="own"
    )
    table = keras_comet.CategoricalFeature(["a", "b"], 2)
    model = make_recommender(
        {"id": table}, [keras.layers.Dense(2)], keras_comet.SoftmaxGate(1)
    )
    for config in (own.get_config(), model.get_config()):
        keys = json.dumps(config).count("shared_object_id")
        # The expert that two other mixtures have.
        assert keys == (config["name"] == "own")


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
    found = [permutation]
    for _ in range(2):
        for _ in range(2):
            other = keras_comet.MultiGateMixtureOfExperts.from_config(config)
            gates = other.gates
            assert gates["click"].permutation is gates["rate"].permutation
            assert gates["buy"].permutation is None
            found.append(gates["click"].permutation)
        config = json.loads(json.dumps(other.get_config()))
    assert len({id(each) for each in found}) == 5


def test_features_share_a_table_that_comes_as_json():
    table = keras_comet.EmbeddingTable(["a", "b"], 2)
    features = {
        name: keras_comet.CategoricalFeature(table) for name in ("home", "work")
    }
    gate = keras_comet.SoftmaxGate(1)
    model = make_recommender(features, [keras.layers.Dense(2)], gate)
    config = json.loads(json.dumps(model.get_config()))
    features = keras_comet.MultiGateRecommender.from_config(config).features
    assert features["home"].table is features["work"].table is not table


def test_copies_that_are_gone_are_forgotten():
    model = make_model(stacked=True)
    config = model.get_layer("one").get_config()
    for _ in range(3):
        keras_comet.MixtureOfExperts.from_config(config)
        gc.collect()
    # The last one goes when another is made.
    assert len(config["experts"]["shared_object_id"].sharing.copies) == 1

import copy
import gc
import json
import pickle

import numpy as np
import pytest
import tensorflow as tf

import keras_comet
from keras_comet._keras import keras
from tests.helpers import rows
from tests.helpers import run_script

ORDER = [[2, 0, 3, 1]]


def mixture(permutation, name=None):
    experts = [keras.layers.Dense(3) for _ in range(4)]
    gate = keras_comet.COMETGate(4, permutation=permutation, name=name)
    return keras_comet.MixtureOfExperts(experts, gate)


def make_model(names=(None, None)):
    """Two mixtures, one after the other, that share a permutation."""
    permutation = keras_comet.ExpertPermutation(4)
    inputs = keras.Input((3,))
    hidden = mixture(permutation, names[0])(inputs)
    return keras.Model(inputs, mixture(permutation, names[1])(hidden))


def permutations(model):
    """Those of all mixtures of a model, models within it included."""
    return [
        layer.gate.permutation
        for layer in model._flatten_layers()
        if isinstance(layer, keras_comet.MixtureOfExperts)
    ]


def shared_one(model):
    first, second = permutations(model)
    assert first is second
    return first


def from_config(model):
    return type(model).from_config(model.get_config())


@pytest.mark.parametrize("copy_model", [keras.models.clone_model, from_config])
@pytest.mark.parametrize("names", [(None, None), ("gate", "gate")])
def test_copies_share_among_themselves_alone(copy_model, names):
    model = make_model(names)
    copies = [copy_model(model), copy_model(model)]
    copies.append(copy_model(copies[0]))
    found = [shared_one(each) for each in (model, *copies)]
    assert len({id(each) for each in found}) == 4
    found[1].assignment.assign(ORDER)
    for other in (found[0], *found[2:]):
        np.testing.assert_array_equal(other.assignment, [np.arange(4)])
    x = rows(5, 3)
    model.set_weights(copies[0].get_weights())
    np.testing.assert_array_equal(shared_one(model).assignment, ORDER)
    np.testing.assert_allclose(model(x), copies[0](x), atol=1e-6)


def test_config_is_enough_to_share_when_the_model_is_gone():
    config = make_model().get_config()
    gc.collect()
    keras.backend.clear_session()
    shared_one(keras.Model.from_config(config))


@pytest.mark.parametrize("names", [(None, None), ("gate", "gate")])
def test_reloaded_model_shares_too(tmp_path, names):
    model = make_model(names)
    shared_one(model).assignment.assign(ORDER)
    model.save(tmp_path / "model.keras")
    loaded = [
        keras.models.load_model(tmp_path / "model.keras") for _ in range(2)
    ]
    first, second = map(shared_one, loaded)
    assert first is not second
    np.testing.assert_array_equal(first.assignment, ORDER)
    x = rows(5, 3)
    expected = model(x)
    for each in loaded:
        np.testing.assert_allclose(each(x), expected, atol=1e-6)
    # The reloaded one can be copied and saved like the first.
    shared_one(keras.models.clone_model(loaded[0]))
    loaded[0].save(tmp_path / "again.keras")
    again = keras.models.load_model(tmp_path / "again.keras")
    np.testing.assert_array_equal(shared_one(again).assignment, ORDER)


def test_permutations_of_one_name_stay_apart_in_a_file(tmp_path):
    models = [make_model()]
    models.append(keras.models.clone_model(models[0]))
    for model, order in zip(models, (ORDER, [[1, 0, 3, 2]]), strict=True):
        shared_one(model).assignment.assign(order)
    inputs = keras.Input((3,))
    ensemble = keras.Model(
        inputs,
        keras.layers.Average()(
            [
                keras.Model(m.inputs[0], m.outputs[0], name=name)(inputs)
                for m, name in zip(models, "ab", strict=True)
            ]
        ),
    )
    ensemble.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    x = rows(5, 3)
    np.testing.assert_allclose(loaded(x), ensemble(x), atol=1e-6)
    found = permutations(loaded)
    assert len({id(each) for each in found}) == 2
    np.testing.assert_array_equal(
        [np.array(each.assignment) for each in found],
        [np.array(each.assignment) for each in permutations(ensemble)],
    )


def test_permutations_of_one_name_are_not_confused(tmp_path):
    first, other = (
        keras_comet.ExpertPermutation(4, name="one") for _ in range(2)
    )
    inputs = outputs = keras.Input((3,))
    for permutation in (first, other, first):
        outputs = mixture(permutation)(outputs)
    model = keras.Model(inputs, outputs)
    model.save(tmp_path / "model.keras")
    for each in (
        keras.models.load_model(tmp_path / "model.keras"),
        keras.models.clone_model(model),
    ):
        before, between, after = permutations(each)
        assert before is after
        assert before is not between


def test_own_permutations_stay_apart():
    inputs = keras.Input((3,))
    first = mixture(keras_comet.ExpertPermutation(4))
    second = mixture(keras_comet.ExpertPermutation(4))
    model = keras.Model(inputs, second(first(inputs)))
    for each in (model, keras.models.clone_model(model)):
        one, other = permutations(each)
        assert one is not other


def test_config_is_plain_and_stays_the_same():
    gate = keras_comet.COMETGate(
        4, permutation=keras_comet.ExpertPermutation(4)
    )
    config = gate.get_config()
    again = keras_comet.COMETGate.from_config(config)
    assert again.get_config() == config
    plain = json.loads(json.dumps(config))
    assert plain == config
    assert pickle.loads(pickle.dumps(config)) == config
    assert copy.deepcopy(config) == config
    rebuilt = keras_comet.COMETGate.from_config(plain)
    assert rebuilt.get_config() == config
    assert rebuilt.permutation is not gate.permutation


def test_config_with_a_key_is_plain():
    permutation = keras_comet.ExpertPermutation(4)
    gates = [
        keras_comet.COMETGate(4, permutation=permutation) for _ in range(2)
    ]
    for config in (gate.get_config() for gate in gates):
        assert "shared_object_id" in config["permutation"]
        assert json.loads(json.dumps(config)) == config
        read = pickle.loads(pickle.dumps(config))
        assert read == config
        assert type(read["permutation"]["shared_object_id"]) is str
    configs = copy.deepcopy([gate.get_config() for gate in gates])
    first, second = map(keras_comet.COMETGate.from_config, configs)
    assert first.permutation is second.permutation


@pytest.mark.slow
def test_two_processes_write_the_same_config():
    script = """
        import json
        from tests.gates.permutation_sharing_test import make_model

        print(json.dumps(make_model().get_config(), sort_keys=True))
    """
    first, second = run_script(script), run_script(script)
    assert first.returncode == 0, first.stderr
    assert len(json.loads(first.stdout)["layers"]) > 2
    assert first.stdout == second.stdout


def test_copy_of_shared_permutation_routes_alike_in_a_graph():
    model = make_model()
    clone = keras.models.clone_model(model)
    call = tf.function(clone)
    x = tf.constant(rows(5, 3))
    before = call(x).numpy()
    shared_one(model).assignment.assign(ORDER)
    np.testing.assert_array_equal(call(x), before)
    shared_one(clone).assignment.assign(ORDER)
    assert np.abs(call(x) - before).max() > 1e-3

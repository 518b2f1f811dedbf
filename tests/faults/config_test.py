"""Configs and files that are not what the package wrote."""

import copy
import functools
import json
import zipfile

import hypothesis
import pytest
from hypothesis import strategies

import keras_comet
from keras_comet._keras import KERAS_3
from keras_comet._keras import keras
from tests.testing.conformance_test import LAYERS

VALUES = [
    None,
    True,
    -1,
    0,
    1.5,
    float("nan"),
    2**70,
    "",
    "x",
    [],
    {},
    [[1, "a"]],
    {"class_name": "Dense"},
    {"module": 1.5, "class_name": "x", "config": {}, "registered_name": None},
]
DELETED = object()
MAKERS = {
    **{
        name: (layer_class, arguments)
        for name, (layer_class, arguments, _) in LAYERS.items()
    },
    "optimizer": (
        keras_comet.LocalSearchOptimizer,
        lambda: {
            "inner_optimizer": "adam",
            "search_steps": 5,
            "method": "sinkhorn",
            "temperature": keras.optimizers.schedules.ExponentialDecay(
                1.0, 5, 0.5
            ),
        },
    ),
    "task": (
        keras_comet.Task,
        lambda: {
            "name": "click",
            "loss": "mse",
            "metrics": ["mae", keras.metrics.AUC()],
            "activation": "sigmoid",
        },
    ),
}


@functools.cache
def read_config(name):
    """The config as a file holds it."""
    made_class, arguments = MAKERS[name]
    made = made_class(**(arguments() if callable(arguments) else arguments))
    config = keras.saving.serialize_keras_object(made)["config"]
    return json.loads(json.dumps(config))


def paths(config, prefix=()):
    """The way to each entry, at any depth."""
    if isinstance(config, dict):
        entries = config.items()
    else:
        entries = enumerate(config) if isinstance(config, list) else ()
    for key, value in entries:
        yield (*prefix, key)
        yield from paths(value, (*prefix, key))


@hypothesis.given(data=strategies.data())
def test_config_with_a_broken_entry_is_read_or_refused(data):
    name = data.draw(strategies.sampled_from(sorted(MAKERS)))
    config = copy.deepcopy(read_config(name))
    path = data.draw(strategies.sampled_from(list(paths(config))))
    value = data.draw(strategies.sampled_from([*VALUES, DELETED]))
    inside = config
    for key in path[:-1]:
        inside = inside[key]
    if value is DELETED:
        del inside[path[-1]]
    else:
        inside[path[-1]] = copy.deepcopy(value)
    made_class = MAKERS[name][0]
    try:
        made = made_class.from_config(config)
    except (TypeError, ValueError) as error:
        assert str(error)
    else:
        assert isinstance(made, made_class)


def test_refusal_says_what_is_wrong():
    config = read_config("task")
    with pytest.raises(ValueError, match="config of Task .* KeyError .'loss'"):
        keras_comet.Task.from_config(
            {name: each for name, each in config.items() if name != "loss"}
        )


def save_mixture(path, make_expert):
    inputs = keras.Input((3,))
    mixture = keras_comet.MixtureOfExperts(
        [make_expert() for _ in range(2)], keras_comet.TopKGate(2, k=1)
    )
    keras.Model(inputs, mixture(inputs)).save(path)


def rewrite(path, change):
    """Changes the config inside of a `.keras` file."""
    with zipfile.ZipFile(path) as file:
        content = {name: file.read(name) for name in file.namelist()}
    config = json.loads(content["config.json"])
    change(config)
    content["config.json"] = json.dumps(config).encode()
    with zipfile.ZipFile(path, "w") as file:
        for name, each in content.items():
            file.writestr(name, each)


def find_expert(config):
    [mixture] = [
        layer
        for layer in config["config"]["layers"]
        if layer["class_name"] == "MixtureOfExperts"
    ]
    return mixture["config"]["experts"][0]


@pytest.mark.filterwarnings("ignore:The `keras.initializers.serialize")
def test_file_with_a_python_function_is_refused(tmp_path):
    path = tmp_path / "model.keras"
    save_mixture(
        path, lambda: keras.layers.Lambda(lambda x: 2 * x, output_shape=(3,))
    )
    with pytest.raises(ValueError, match="safe_mode|Lambda|lambda"):
        keras.models.load_model(path)


@pytest.mark.parametrize(
    ("module", "name"), [("os", "system"), ("tests.faults.payload", "Payload")]
)
def test_file_that_names_another_module_is_refused(module, name, tmp_path):
    if not KERAS_3 and module != "os":
        pytest.skip("tf_keras imports any module that a file names")
    path = tmp_path / "model.keras"
    save_mixture(path, lambda: keras.layers.Dense(2))

    def change(config):
        find_expert(config).update(
            module=module,
            class_name=name,
            registered_name=None,
            config={"command": f"touch {tmp_path / 'harm'}"},
        )

    rewrite(path, change)
    with pytest.raises((TypeError, ValueError)):
        keras.models.load_model(path)
    assert not (tmp_path / "harm").exists()

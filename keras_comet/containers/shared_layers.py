"""Configs of layers that may be shared, so that copies share them again."""

import itertools
import weakref
from collections.abc import Iterable
from typing import Any

from keras_comet._keras import keras

_numbers = itertools.count()


class SharingKey(str):
    """Names a layer in configs; within its process, also finds its copies.

    Keras gives equal keys one object while it loads a file. Elsewhere, as in
    `clone_model`, layers are rebuilt one by one, and find what the layers
    beside them made through the key itself.

    Attributes:
        owner: reference to the layer.
        users: set of names of the layers that hold it.
        copies: list of references to copies, each with the set of names of
            its users.
    """

    owner: weakref.ref[Any]
    users: set[str]
    copies: list[tuple[weakref.ref[Any], set[str]]]


def register_user(layers: Iterable[Any], user: str) -> None:
    """Notes that a layer of this name holds these layers."""
    for layer in layers:
        _sharing_key(layer).users.add(user)


def serialize_layers(layers: Any) -> Any:
    """Serializes a layer, a list or a dict of layers.

    Args:
        layers: layer, list of layers, or dict from name to either.

    Returns:
        Configs in the same structure, each with a `"shared_object_id"`.
    """
    if isinstance(layers, list):
        return [serialize_layers(each) for each in layers]
    if isinstance(layers, dict):
        return {key: serialize_layers(each) for key, each in layers.items()}
    return {
        **keras.saving.serialize_keras_object(layers),
        "shared_object_id": _sharing_key(layers),
    }


def deserialize_layers(
    config: dict[str, Any], names: Iterable[str], custom_objects: Any = None
) -> dict[str, Any]:
    """Rebuilds what `serialize_layers` wrote into the config of a layer.

    A layer that several users share is made once for each copy of them all.

    Args:
        config: what `get_config` returned.
        names: the entries that hold layers.
        custom_objects: dict from name to class or function, or `None`.

    Returns:
        A config with layers in their place.
    """
    return {
        **config,
        **{
            name: _deserialize(config[name], config["name"], custom_objects)
            for name in names
            if name in config
        },
    }


def _deserialize(configs: Any, user: str, custom_objects: Any) -> Any:
    if isinstance(configs, list):
        return [_deserialize(each, user, custom_objects) for each in configs]
    if configs is None:
        return None
    if "class_name" not in configs:
        return _deserialize_dict(configs, user, custom_objects)
    key = configs.get("shared_object_id")
    copies = []
    if isinstance(key, SharingKey) and user in key.users:
        copies = key.copies
    for reference, users in reversed(copies):
        layer = reference()
        if layer is not None and user not in users:
            users.add(user)
            return layer
    layer = keras.saving.deserialize_keras_object(
        configs, custom_objects=custom_objects
    )
    copies.append((weakref.ref(layer), {user}))
    return layer


def _deserialize_dict(
    configs: dict[str, Any], user: str, custom_objects: Any
) -> dict[str, Any]:
    """Rebuilds layers by name, with the permutations that gates share.

    Gates find permutations of their process by themselves; in a config that
    came as JSON, those of one mixture share by key.
    """
    layers: dict[str, Any] = {}
    permutations: dict[str, Any] = {}
    for name, config in configs.items():
        key = _permutation_key(config)
        if key in permutations:
            inner = {**config["config"], "permutation": permutations[key]}
            config = {**config, "config": inner}
        layers[name] = _deserialize(config, user, custom_objects)
        if type(key) is str:
            permutations[key] = layers[name].permutation
    return layers


def _permutation_key(config: Any) -> str | None:
    """Returns the key of a gate's permutation; lists of experts have none."""
    if isinstance(config, list):
        return None
    permutation = config["config"].get("permutation")
    return permutation and permutation.get("shared_object_id")


def _sharing_key(layer: Any) -> SharingKey:
    key: SharingKey | None = vars(layer).get("_sharing_key")
    # A deep copy of a layer brings the key of the other one along.
    if key is None or key.owner() is not layer:
        key = SharingKey(f"{layer.name}/{next(_numbers)}")
        key.owner, key.users, key.copies = weakref.ref(layer), set(), []
        vars(layer)["_sharing_key"] = key
    return key

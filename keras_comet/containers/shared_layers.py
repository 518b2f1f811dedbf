"""Configs of layers that may be shared, so that copies share them again.

A layer that several others use has a key in the configs of all of them. Keras
gives equal keys one object, but only while it loads a file; in a config that
came as JSON, `deserialize_layers` does. `clone_model` and
`from_config(get_config())` rebuild one user after another: there, the key
itself knows what was rebuilt, and for which users.
"""

import itertools
import weakref
from collections.abc import Iterable
from contextvars import ContextVar
from typing import Any

from keras_comet._keras import keras

_numbers = itertools.count()

# The copies that the outermost `deserialize_layers` has made of layers whose
# keys are plain strings.
_made: ContextVar[dict[str, Any]] = ContextVar("made")


class _Sharing:
    """How many layers use a layer, and what was rebuilt from its config.

    Attributes:
        num_users: int.
        number: int, another one for each layer of the process.
        copies: list of pairs: reference to a copy, and the list of references
            to the users, of the layer itself, whose copies have it.
    """

    def __init__(self, num_users: int = 0) -> None:
        self.num_users = num_users
        self.number = next(_numbers)
        self.copies: list[tuple[Any, list[Any]]] = []

    def __deepcopy__(self, memo: Any) -> "_Sharing":
        return _Sharing(self.num_users)


class _SharingKey(str):
    """Names a shared layer in the config of a user, which it knows as well.

    Written to a file, it is the name alone.

    Attributes:
        sharing: `_Sharing` of the layer.
        user: reference to the user.
        user_name: str. A copy that is called otherwise stands alone.
    """

    sharing: _Sharing
    user: Any
    user_name: str

    def __deepcopy__(self, memo: Any) -> "_SharingKey":
        return self

    def __reduce__(self) -> Any:
        return str, (str(self),)


def register_user(layers: Iterable[Any]) -> None:
    """Notes that one more layer uses these layers."""
    for layer in layers:
        _sharing_of(layer).num_users += 1


def serialize_layers(layers: Any, user: Any) -> Any:
    """Serializes a layer, a list or a dict of layers.

    Args:
        layers: layer, list of layers, or dict from name to either.
        user: the layer that uses them.

    Returns:
        Configs in the same structure, those of layers with several users with
        a `"shared_object_id"`.
    """
    if isinstance(layers, list):
        return [serialize_layers(each, user) for each in layers]
    if isinstance(layers, dict):
        return {
            key: serialize_layers(each, user) for key, each in layers.items()
        }
    config = keras.saving.serialize_keras_object(layers)
    sharing = _sharing_of(layers)
    if sharing.num_users < 2:
        return config
    key = _SharingKey(f"{layers.name}/{sharing.number}")
    key.sharing, key.user, key.user_name = sharing, weakref.ref(user), user.name
    return {**config, "shared_object_id": key}


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
    outermost = None if _made.get(None) is not None else _made.set({})
    try:
        layers = {
            name: _deserialize(config[name], config.get("name"), custom_objects)
            for name in names
            if name in config
        }
        return {**config, **layers}
    finally:
        if outermost:
            _made.reset(outermost)


def _deserialize(configs: Any, user_name: Any, custom_objects: Any) -> Any:
    if isinstance(configs, list):
        return [
            _deserialize(each, user_name, custom_objects) for each in configs
        ]
    # Nothing, or a layer already.
    if not isinstance(configs, dict):
        return configs
    if "class_name" not in configs:
        return {
            name: _deserialize(each, user_name, custom_objects)
            for name, each in configs.items()
        }
    key = configs.get("shared_object_id")
    copies, user = [], object()
    if isinstance(key, _SharingKey):
        if key.user_name == user_name:
            copies, user = key.sharing.copies, key.user
    elif key is not None:
        copies = _made.get().setdefault(key, [])
    for reference, users in reversed(copies):
        layer = reference()
        if layer is not None and user not in users:
            users.append(user)
            return layer
    layer = keras.saving.deserialize_keras_object(
        configs, custom_objects=custom_objects
    )
    copies[:] = [pair for pair in copies if pair[0]() is not None]
    copies.append((weakref.ref(layer), [user]))
    return layer


def _sharing_of(layer: Any) -> _Sharing:
    # Not an attribute that Keras tracks.
    if "_keras_comet_sharing" not in vars(layer):
        vars(layer)["_keras_comet_sharing"] = _Sharing()
    sharing: _Sharing = vars(layer)["_keras_comet_sharing"]
    return sharing

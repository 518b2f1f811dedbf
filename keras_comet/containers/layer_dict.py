"""A dict of layers that every way of saving finds, and stores by key."""

import urllib.parse
from collections.abc import ItemsView
from collections.abc import Iterator
from collections.abc import Mapping
from typing import Any

from keras_comet._keras import keras

_PREFIX = "layer_"


class LayerDict(keras.layers.Layer):
    """Holds layers by name, each as an attribute of its own.

    Layers in a plain dict are missing from TensorFlow checkpoints under
    Keras 3, and Keras stores their weights by position, so that a model with
    the same keys in another order would load the weights of the wrong one.

    Reads like a dict; keys may be any strings. It is not meant to be called.

    Args:
        layers: dict from key to layer.
    """

    def __init__(self, layers: Mapping[str, Any], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for key, layer in layers.items():
            setattr(self, _attribute(key), layer)
        self.built = True

    def __getitem__(self, key: str) -> Any:
        try:
            return vars(self)[_attribute(key)]
        except KeyError:
            raise KeyError(key) from None

    def __iter__(self) -> Iterator[str]:
        for name in vars(self):
            if name.startswith(_PREFIX):
                yield urllib.parse.unquote(name.removeprefix(_PREFIX))

    def __len__(self) -> int:
        return len(list(iter(self)))

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and _attribute(key) in vars(self)

    def keys(self) -> list[str]:
        """Lists the keys, in the order given."""
        return list(self)

    def values(self) -> list[Any]:
        """Lists the layers, in the order of the keys."""
        return [self[key] for key in self]

    def items(self) -> ItemsView[str, Any]:
        """Pairs each key with its layer."""
        return {key: self[key] for key in self}.items()

    def get(self, key: str, default: Any = None) -> Any:
        """Returns the layer under a key, or a default if there is none."""
        return self[key] if key in self else default


def _attribute(key: str) -> str:
    # Different keys give different names, and a slash would be a folder.
    return _PREFIX + urllib.parse.quote(key, safe="")

"""Layers inside layers: found by every way of saving, and shared again."""

from keras_comet.containers.layer_dict import LayerDict
from keras_comet.containers.shared_layers import deserialize_layers
from keras_comet.containers.shared_layers import register_user
from keras_comet.containers.shared_layers import serialize_layers

__all__ = [
    "LayerDict",
    "deserialize_layers",
    "register_user",
    "serialize_layers",
]

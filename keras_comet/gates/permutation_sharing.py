"""Sharing of permutations, kept when gates are rebuilt from configs.

A config holds the permutation of each gate. Under which key Keras finds one
again that it rebuilt already is the permutation's name, the same in every
process; it looks only while it loads a model. `clone_model` and
`from_config(get_config())` have no such scope: there, the key itself knows
what was rebuilt. Gates that share a permutation are numbered, so that a
second gate of the same number is seen to belong to another copy.
"""

import dataclasses
import weakref
from typing import TYPE_CHECKING
from typing import Any

from keras_comet._keras import keras

if TYPE_CHECKING:
    from keras_comet.gates.expert_permutation import ExpertPermutation

_KEY = "shared_object_id"
_SHARER = "sharer"


@dataclasses.dataclass
class Sharing:
    """Says who shares a permutation, and what was rebuilt from its config.

    Attributes:
        sharers: set of the numbers of gates.
        rebuilt: list of weak references to permutations, oldest first.
        loaded: the same for those that have one key in a file.
    """

    sharers: set[int] = dataclasses.field(default_factory=set)
    rebuilt: list[Any] = dataclasses.field(default_factory=list)
    loaded: list[Any] = dataclasses.field(default_factory=list)

    def add(self) -> int:
        """Numbers one more gate."""
        sharer = max(self.sharers, default=-1) + 1
        self.sharers.add(sharer)
        return sharer


class SharingKey(str):
    """The name of a permutation, which in this process knows its copies.

    Written to a file, it is the name alone.
    """

    sharing: Sharing

    def __new__(cls, permutation: "ExpertPermutation") -> "SharingKey":
        key = super().__new__(cls, permutation.name)
        key.sharing = permutation.sharing
        return key

    def __deepcopy__(self, memo: Any) -> "SharingKey":
        return self

    def __reduce__(self) -> Any:
        return str, (str(self),)


def serialize_permutation(
    permutation: "ExpertPermutation", sharer: int
) -> dict[str, Any]:
    """Returns the config of a permutation as one of its gates holds it.

    Args:
        permutation: `ExpertPermutation`.
        sharer: int. The number of the gate.

    Returns:
        A dict for `rebuild_permutation`, or Keras' own deserialization.
    """
    return {
        **keras.saving.serialize_keras_object(permutation),
        _KEY: SharingKey(permutation),
        _SHARER: sharer,
    }


def rebuild_permutation(
    config: dict[str, Any], custom_objects: Any = None
) -> tuple["ExpertPermutation", int | None]:
    """Rebuilds the permutation of a gate, or finds it if others have it.

    Args:
        config: dict that `serialize_permutation` returned.
        custom_objects: as Keras takes it.

    Returns:
        The permutation and the number of the gate.
    """

    def deserialize(config: dict[str, Any]) -> "ExpertPermutation":
        permutation: ExpertPermutation = keras.saving.deserialize_keras_object(
            config, custom_objects=custom_objects
        )
        return permutation

    key, sharer = config.get(_KEY), config.get(_SHARER)
    if key is None or sharer is None:
        return deserialize(config), None
    if isinstance(key, SharingKey):
        copies = key.sharing.rebuilt
    else:
        first = deserialize(config)
        copies = first.sharing.loaded or [weakref.ref(first)]
        first.sharing.loaded = copies
    for reference in reversed(copies):
        permutation = reference()
        if permutation and sharer not in permutation.sharing.sharers:
            break
    else:
        permutation = deserialize({**config, _KEY: None})
        copies.append(weakref.ref(permutation))
    permutation.sharing.sharers.add(sharer)
    return permutation, sharer

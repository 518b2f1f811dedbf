"""The known ids of a feature, from all that holds ids in real life."""

import base64
import json
import zlib
from collections.abc import Iterable
from collections.abc import Set
from typing import Any

import numpy as np
import tensorflow as tf

# More ids than this are compressed in configs, which are text.
_LONGEST_LIST = 1000


def read_vocabulary(vocabulary: Any) -> list[Any]:
    """Lists known ids as Python values.

    Args:
        vocabulary: strings, bytes in UTF-8 or integers, all different: a
            list, set, NumPy array of any such dtype, pandas column or
            TensorFlow tensor. A set has no order, and is sorted.

    Returns:
        A list of str, or a list of int.

    Raises:
        ValueError: If it is empty, holds an id twice or a missing value, or
            other types.
    """
    values = vocabulary.numpy() if tf.is_tensor(vocabulary) else vocabulary
    is_single = isinstance(values, (str, bytes)) or not getattr(
        values, "ndim", 1
    )
    ids: list[Any] = []
    if isinstance(values, Iterable) and not is_single:
        ids = [_to_python(each) for each in values]
    kinds = {type(each) for each in ids}
    if kinds not in ({str}, {int}):
        raise ValueError(
            "`vocabulary` must be a non-empty list, set or array of strings "
            "or of integers, without missing values. Received: "
            f"{type(vocabulary).__name__} of "
            f"{sorted(kind.__name__ for kind in kinds) or repr(vocabulary)}"
        )
    num_different = len(set(ids))
    if num_different < len(ids):
        raise ValueError(
            "`vocabulary` must not hold an id twice. Received: "
            f"{len(ids)} ids, {num_different} different ones"
        )
    # The order of a set of strings differs from process to process.
    return sorted(ids) if isinstance(values, Set) else ids


def pack_vocabulary(ids: list[Any]) -> list[Any] | str:
    """Returns known ids as configs hold them: a list, or compressed text."""
    if len(ids) <= _LONGEST_LIST:
        return ids
    compressed = zlib.compress(json.dumps(ids).encode(), level=1)
    return base64.b64encode(compressed).decode()


def unpack_vocabulary(packed: list[Any] | str) -> list[Any]:
    """Undoes `pack_vocabulary`."""
    if not isinstance(packed, str):
        return list(packed)
    ids: list[Any] = json.loads(zlib.decompress(base64.b64decode(packed)))
    return ids


def _to_python(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, str):
        return str(value)
    return int(value) if isinstance(value, np.integer) else value

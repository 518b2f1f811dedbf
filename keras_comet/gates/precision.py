"""The precision that routing runs in."""

from typing import Any


def full_precision(dtype: Any) -> Any:
    """The policy to route in: `dtype`, but never a half-precision one.

    Args:
        dtype: what a Keras layer takes as `dtype`, or its config.

    Returns:
        The name of a policy.
    """
    if isinstance(dtype, dict):
        dtype = dtype["config"]["name"]
    name = getattr(dtype, "name", dtype)
    return "float32" if name is None or "16" in name else name

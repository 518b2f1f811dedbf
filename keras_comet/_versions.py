"""Which TensorFlow and Keras were tested, and a warning beyond them."""

import warnings

# The newest minor versions that `make test-versions` ran with. The oldest are
# the bounds in setup.cfg.
NEWEST_TESTED = {"tensorflow": "2.21", "keras": "3.15", "tf_keras": "2.21"}


def warn_if_newer(versions: dict[str, str]) -> None:
    """Warns, once for all, of what is newer than what was tested.

    Args:
        versions: dict from the name of a package to its version.
    """
    newer = {
        name: version
        for name, version in versions.items()
        if _minor(version) > _minor(NEWEST_TESTED[name])
    }
    if newer:
        warnings.warn(
            "keras_comet was not tested with "
            + " and ".join(f"{name} {newer[name]}" for name in newer)
            + ". It may work as ever. If something fails, look for a newer "
            "keras-comet, or `pip install "
            + " ".join(f"'{name}=={NEWEST_TESTED[name]}.*'" for name in newer)
            + "`.",
            UserWarning,
            # What imports keras_comet, which imports _keras, which calls this.
            stacklevel=4,
        )


def _minor(version: str) -> tuple[int, int]:
    major, minor = version.split(".")[:2]
    return int(major), int(minor)

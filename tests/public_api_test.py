"""Names and signatures of the public API are those of `public_api.txt`.

    python -m tests.public_api_test

writes the file anew. A change to it is a change for users: it belongs into
CHANGELOG.md, and follows docs/compatibility.md.
"""

import importlib
import inspect
import pathlib

import keras_comet

FILE = pathlib.Path(__file__).with_name("public_api.txt")
COMMAND = "python -m tests.public_api_test"
# Parts whose own names are public, besides those of keras_comet itself.
PARTS = ("analysis", "datasets", "testing", "tuning")
ALSO = {"gates.LinearGate"}


def describe():
    names = set(keras_comet.__all__) - {"__version__"} | ALSO
    for part in PARTS:
        exported = importlib.import_module(f"keras_comet.{part}").__all__
        names |= {f"{part}.{name}" for name in exported}
    lines = []
    for name in sorted(names - set(PARTS)):
        module, _, last = f"keras_comet.{name}".rpartition(".")
        lines += _describe(name, getattr(importlib.import_module(module), last))
    return "".join(f"{line}\n" for line in lines)


def _describe(name, value):
    if inspect.isclass(value):
        yield f"{name}{_signature(value)}"
        for member in sorted(_public_members(value)):
            own = inspect.getattr_static(value, member)
            if isinstance(own, (classmethod, staticmethod)):
                own = own.__func__
            signature = _signature(own) if callable(own) else ""
            yield f"    .{member}{signature}"
    elif callable(value):
        yield f"{name}{_signature(value)}"
    else:
        yield name


def _public_members(public):
    """Names of what the package's own classes define: methods, properties."""
    return {
        name
        for each in public.__mro__
        if each.__module__.startswith("keras_comet")
        for name in vars(each)
        if not name.startswith("_")
    }


def _signature(function):
    """Names, kinds and defaults; annotations depend on the Keras in use."""
    signature = inspect.signature(function)
    parameters = [
        parameter.replace(
            annotation=parameter.empty, default=_default(parameter.default)
        )
        for parameter in signature.parameters.values()
    ]
    return str(
        signature.replace(
            parameters=parameters, return_annotation=signature.empty
        )
    )


class _Name:
    def __init__(self, name):
        self.name = name

    def __repr__(self):
        return self.name


def _default(value):
    is_plain = isinstance(value, (str, int, float, tuple, dict, type(None)))
    if value is inspect.Parameter.empty or is_plain:
        return value
    return _Name(getattr(value, "__name__", type(value).__name__))


def test_public_api_is_the_one_that_is_written_down():
    assert describe().splitlines() == FILE.read_text().splitlines(), (
        f"The public API has changed. If it should have, run `{COMMAND}` and "
        "add a line to CHANGELOG.md."
    )


if __name__ == "__main__":
    FILE.write_text(describe())

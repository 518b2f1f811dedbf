"""The names, shapes and types of what a served model takes and returns."""

import inspect
import re
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from keras_comet._keras import keras

# What TensorFlow accepts as the name of a node.
_LEGAL_NAME = re.compile(r"[A-Za-z0-9.][A-Za-z0-9_./-]*")

_HOW_TO = (
    "Pass `input_signature`, a dict from input name to tf.TensorSpec whose "
    "first axis, the batch, is None: {'user_id': tf.TensorSpec([None], "
    "tf.string)}."
)


def find_input_signature(
    model: keras.layers.Layer, given: Any
) -> dict[str, tf.TensorSpec]:
    """Finds out what a model takes.

    Args:
        model: Keras model.
        given: the caller's `input_signature`, or `None`.

    Returns:
        A dict from input name to named spec: `given`, else the model's own
        `input_signature`, else that of a functional or Sequential model.

    Raises:
        ValueError: If there is none, or it is not a dict of specs with a free
            batch axis, or has a name that TensorFlow does not accept.
    """
    signature = given
    if signature is None:
        signature = getattr(model, "input_signature", None)
        if callable(signature):
            signature = signature()
    if signature is None:
        signature = {
            name: tf.TensorSpec([None, *tuple(each.shape)[1:]], each.dtype)
            for name, each in _functional_inputs(model).items()
        }
    if not signature:
        raise ValueError(
            f"The inputs of model {model.name!r} must be described, as it is "
            f"no functional model. {_HOW_TO}{_suggest_signature(model)}"
        )
    if not isinstance(signature, Mapping) or not all(
        map(_has_free_batch, signature.values())
    ):
        raise ValueError(
            "The input signature does not describe a batch of any size. "
            f"Received: {signature}. {_HOW_TO}"
        )
    named = {
        name: tf.TensorSpec(
            spec.shape,
            spec.dtype,
            # A model may have a name of its own for what TensorFlow refuses.
            name=name if _LEGAL_NAME.fullmatch(name) else spec.name,
        )
        for name, spec in signature.items()
    }
    names = [spec.name for spec in named.values()]
    illegal = [
        name
        for name, spec in named.items()
        if not _LEGAL_NAME.fullmatch(spec.name or "")
        or names.count(spec.name) > 1
    ]
    if illegal:
        raise ValueError(
            "TensorFlow restricts the names of inputs to letters, digits and "
            "._/- and the first to a letter, a digit or a dot, and they must "
            f"differ. Received: {illegal}. Rename these inputs of model "
            f"{model.name!r}."
        )
    return named


def call_by_names(
    model: keras.layers.Layer, inputs: Mapping[str, tf.Tensor]
) -> Any:
    """Calls a model for inference with its inputs given by name.

    A functional model gets them in its own structure. Another model gets
    arguments, if its `call` has arguments of all these names, or one dict.

    Args:
        model: Keras model.
        inputs: dict from input name to tensor, as the input signature.

    Returns:
        What the model returns.

    Raises:
        ValueError: If a functional model has inputs of other names.
    """
    expected = _functional_inputs(model)
    if not expected:
        return _call_subclassed(model, inputs)
    if len(expected) == 1 == len(inputs):
        flat = list(inputs.values())
    elif set(inputs) == set(expected):
        flat = [inputs[name] for name in expected]
    else:
        raise ValueError(
            "The input signature must name the inputs of the model. "
            f"Expected: {list(expected)}. Received: {list(inputs)}"
        )
    structure = _input_structure(model)
    return model(tf.nest.pack_sequence_as(structure, flat), training=False)


def name_outputs(model: keras.layers.Layer, outputs: Any) -> dict[str, Any]:
    """Gives every output of a model a name.

    Args:
        model: Keras model.
        outputs: what it returned.

    Returns:
        A dict from name to tensor: the keys of a dict, `"output"` for one
        tensor, for a list the output names of a functional model or else
        `"output_0"`, `"output_1"`, and so on.

    Raises:
        ValueError: If an output is not a tensor.
    """
    if isinstance(outputs, Mapping):
        named = {str(name): each for name, each in outputs.items()}
    elif isinstance(outputs, (list, tuple)):
        named = dict(zip(_list_names(model, outputs), outputs, strict=False))
    else:
        named = {"output": outputs}
    if not named or not all(map(tf.is_tensor, named.values())):
        raise ValueError(
            "A served model must return a tensor, or a dict or list of "
            f"tensors. Received: {outputs} from model {model.name!r}. Wrap it "
            "in a keras.Model that returns one dict."
        )
    return named


def _suggest_signature(model: keras.layers.Layer) -> str:
    """The line to write, where Keras 2 knows what a model was called on.

    That is no signature: a model may have been called on labels as well.
    """
    save_spec = getattr(model, "save_spec", lambda: None)()
    inputs = save_spec[0][0] if save_spec else None
    if not isinstance(inputs, Mapping):
        return ""
    line = ", ".join(
        f"{name!r}: tf.TensorSpec({spec.shape.as_list()}, tf.{spec.dtype.name})"
        for name, spec in inputs.items()
    )
    return (
        " Of what this model was called on, leave labels and weights out: "
        f"input_signature={{{line}}}"
    )


def _functional_inputs(model: keras.layers.Layer) -> dict[str, Any]:
    """Symbolic inputs by name, in the order of tf.nest; none if subclassed."""
    structure = _input_structure(model)
    if structure is None:
        return {}
    flat = tf.nest.flatten(structure)
    if isinstance(structure, Mapping) and len(structure) == len(flat):
        return dict(zip(sorted(structure), flat, strict=True))
    return {each.name: each for each in flat}


def _input_structure(model: keras.layers.Layer) -> Any:
    """The symbolic inputs as the model wants them; None if subclassed."""
    if not getattr(model, "inputs", None):
        return None
    # Built by a call, a Sequential model has no `input` in Keras 3.
    if isinstance(model, keras.Sequential):
        return model.inputs[0]
    return model.input


def _call_subclassed(
    model: keras.layers.Layer, inputs: Mapping[str, tf.Tensor]
) -> Any:
    """Passes the arguments of `call` that inputs name, or else one dict."""
    first, *others = inspect.signature(model.call).parameters
    if first not in inputs or not set(inputs) <= {first, *others}:
        return model(dict(inputs), training=False)
    by_name = {name: inputs[name] for name in others if name in inputs}
    return model(inputs[first], **by_name, training=False)


def _list_names(model: keras.layers.Layer, outputs: Sequence[Any]) -> list[str]:
    if _input_structure(model) is None:
        return [f"output_{index}" for index in range(len(outputs))]
    names = list(model.output_names)
    # A layer with several outputs names them all alike in Keras 3.
    return [
        f"{name}_{earlier}" if (earlier := names[:index].count(name)) else name
        for index, name in enumerate(names)
    ]


def _has_free_batch(spec: Any) -> bool:
    return (
        isinstance(spec, tf.TensorSpec)
        and bool(spec.shape.rank)
        and spec.shape[0] is None
    )

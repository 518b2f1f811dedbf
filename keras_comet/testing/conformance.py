"""Checks that a layer or a gate does what Keras and this package promise.

`check_layer` and `check_gate` run all of them; each check is a function by
itself as well, so that a test can name the one that fails.
"""

from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

from keras_comet.gates.base import Gate
from keras_comet.testing.gate_checks import GATE_CHECKS
from keras_comet.testing.layer_checks import LAYER_CHECKS
from keras_comet.testing.layer_checks import check_compiled_training
from keras_comet.testing.layer_checks import check_gradients
from keras_comet.testing.subject import InitKwargs
from keras_comet.testing.subject import Inputs


def check_layer(
    layer_class: type,
    init_kwargs: InitKwargs,
    inputs: Inputs,
    without_gradient: Sequence[str] = (),
    random: bool = False,
) -> None:
    """Runs every check in `LAYER_CHECKS` on a layer.

    Args:
        layer_class: class of the layer.
        init_kwargs: dict of its constructor arguments, or a function that
            returns one. Layers among them need a function, which makes new
            ones for each check.
        inputs: shape of one row of the inputs, or a function from batch size
            to inputs: arrays in the structure that the layer takes.
        without_gradient: ends of the names of trainable weights that may have
            no gradient. Defaults to `()`.
        random: bool. Whether training is random, as with dropout or noise:
            XLA draws other numbers then. Defaults to `False`.

    Raises:
        AssertionError: If a check fails; says which and why.

    Example:

    ```python
    import keras_comet
    from keras_comet import testing

    testing.check_layer(
        keras_comet.StackedDenseExperts,
        {"num_experts": 3, "units": [4, 2]},
        inputs=(5,),
    )
    ```
    """
    options: dict[Callable[..., None], dict[str, Any]] = {
        check_gradients: {"without_gradient": without_gradient},
        check_compiled_training: {"random": random},
    }
    for check in LAYER_CHECKS:
        check(layer_class, init_kwargs, inputs, **options.get(check, {}))


def check_gate(
    gate_class: type[Gate],
    init_kwargs: InitKwargs,
    inputs: Inputs,
    without_gradient: Sequence[str] = (),
    random: bool = False,
) -> None:
    """Runs every check in `LAYER_CHECKS` and in `GATE_CHECKS` on a gate.

    Args:
        gate_class: subclass of `Gate`.
        init_kwargs: as in `check_layer`.
        inputs: as in `check_layer`.
        without_gradient: as in `check_layer`. Defaults to `()`.
        random: as in `check_layer`. Defaults to `False`.

    Raises:
        AssertionError: If a check fails; says which and why.

    Example:

    ```python
    import keras_comet
    from keras_comet import testing

    testing.check_gate(
        keras_comet.COMETGate, {"num_experts": 5, "k": 2}, inputs=(4,)
    )
    ```
    """
    check_layer(gate_class, init_kwargs, inputs, without_gradient, random)
    for check in GATE_CHECKS:
        check(gate_class, init_kwargs, inputs)

"""The C program that serves a SavedModel: how to compile and to call it."""

import pathlib
import shutil
import subprocess
from collections.abc import Mapping

import numpy as np
import tensorflow as tf

SOURCE = pathlib.Path(__file__).parents[1] / "tests" / "serving" / "serve.c"


def has_compiler() -> bool:
    """Whether there is a C compiler, `gcc`."""
    return shutil.which("gcc") is not None


def compile_server(directory: pathlib.Path) -> pathlib.Path:
    """Compiles the program against the TensorFlow that is installed.

    Args:
        directory: path. Where to put the program.

    Returns:
        Its path.

    Raises:
        subprocess.CalledProcessError: If it does not compile.
    """
    program = directory / "serve"
    library = tf.sysconfig.get_lib()
    subprocess.run(
        [
            "gcc",
            "-O2",
            f"-I{tf.sysconfig.get_include()}",
            str(SOURCE),
            "-o",
            str(program),
            f"{library}/libtensorflow_cc.so.2",
            f"{library}/libtensorflow_framework.so.2",
            f"-Wl,-rpath,{library}",
        ],
        check=True,
    )
    return program


def write_request(
    inputs: Mapping[str, np.ndarray], directory: pathlib.Path
) -> list[str]:
    """Writes the inputs of a request as the program reads them.

    Args:
        inputs: dict from input name to array `(rows,)` or `(rows, columns)`;
            strings are `bytes` or `str`.
        directory: path. Where to put a file for each.

    Returns:
        The arguments of the program that name them.
    """
    directory.mkdir(parents=True, exist_ok=True)
    arguments = []
    for name, values in inputs.items():
        path = directory / f"{name}.csv"
        rows = values if values.ndim == 2 else values[:, np.newaxis]
        path.write_bytes(
            b"".join(b",".join(map(_to_bytes, row)) + b"\n" for row in rows)
        )
        is_text = values.dtype.kind in "SUO"
        dtype = "string" if is_text else values.dtype.name
        columns = f"x{values.shape[1]}" if values.ndim == 2 else ""
        arguments.append(f"{name}={dtype}{columns}:{path}")
    return arguments


def _to_bytes(value: object) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()

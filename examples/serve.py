"""Predicts with a SavedModel in a process that knows nothing of the package.

TensorFlow Serving loads models with the session loader used here. Feeds the
arrays of one .npz file to the signature's inputs by name, and writes the
outputs, by name, to another.

    python examples/serve.py SAVED_MODEL INPUTS.npz OUTPUTS.npz
"""

import sys

# Before anything that imports TensorFlow.
import quiet_tensorflow  # noqa: F401

# Any attempt to import the package fails from here on.
sys.modules["keras_comet"] = None  # type: ignore[assignment]

import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402


def main() -> None:
    """Reads the arguments and serves one batch."""
    path, inputs_path, outputs_path = sys.argv[1:]
    # That the session loader is deprecated: TensorFlow Serving uses it still.
    tf.get_logger().setLevel("ERROR")
    values = np.load(inputs_path)
    with tf.compat.v1.Session(graph=tf.Graph()) as session:
        loaded = tf.compat.v1.saved_model.load(session, ["serve"], path)
        signature = loaded.signature_def["serving_default"]
        outputs = session.run(
            {name: info.name for name, info in signature.outputs.items()},
            {
                info.name: values[name]
                for name, info in signature.inputs.items()
            },
        )
    np.savez(outputs_path, **outputs)


if __name__ == "__main__":
    main()

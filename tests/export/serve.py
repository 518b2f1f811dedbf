"""Serves SavedModels in a process that cannot import the package.

Uses the session loader, as TensorFlow Serving does. Reads a JSON list of
`{"path": ..., "inputs": ..., "outputs": ...}`, each with the SavedModel, an
.npz of inputs under "<batch>:<input name>" and the .npz to write outputs to,
under "<batch>:<output name>". Prints, as JSON, a list of what the signatures
and the graphs reachable from them hold.

    python -I serve.py CASES.json REPORT.json
"""

import collections
import json
import os
import sys

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"


class Blocker:
    """Makes the package impossible to import, installed or not."""

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "keras_comet":
            raise ImportError("blocked: keras_comet")


sys.meta_path.insert(0, Blocker())

import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402


def find_reachable(graph_def, outputs):
    """Finds the nodes that run for these outputs, functions included.

    Returns a list of pairs: a node, and all nodes of its graph by name.
    """
    functions = {
        each.signature.name: each for each in graph_def.library.function
    }
    reachable = find_needed(graph_def.node, outputs)
    seen = set()
    for node, _ in reachable:
        called = [node.op]
        for value in node.attr.values():
            called.append(value.func.name)
            called.extend(each.name for each in value.list.func)
        for name in called:
            if name in functions and name not in seen:
                seen.add(name)
                function = functions[name]
                results = [*function.ret.values()]
                results.extend(function.control_ret.values())
                reachable.extend(find_needed(function.node_def, results))
    return reachable


def find_needed(graph_nodes, outputs):
    """Finds the nodes of one graph that its outputs depend on."""
    nodes = {node.name: node for node in graph_nodes}
    needed = set()
    waiting = list(outputs)
    while waiting:
        name = node_name(waiting.pop())
        # Arguments of functions are no nodes.
        if name in nodes and name not in needed:
            needed.add(name)
            waiting.extend(nodes[name].input)
    return [(nodes[name], nodes) for name in needed]


def node_name(tensor):
    return tensor.lstrip("^").partition(":")[0]


def gathers_by_constant(node, nodes):
    if node.op != "GatherV2":
        return False
    indices = nodes.get(node_name(node.input[1]))
    return indices is not None and indices.op == "Const"


def serve(case):
    with tf.compat.v1.Session(graph=tf.Graph()) as session:
        loaded = tf.compat.v1.saved_model.load(session, ["serve"], case["path"])
        signature = loaded.signature_def["serving_default"]
        tensors = {name: info.name for name, info in signature.outputs.items()}
        given = np.load(case["inputs"])
        outputs = {}
        for batch in sorted({key.partition(":")[0] for key in given}):
            feed = {
                info.name: given[f"{batch}:{name}"]
                for name, info in signature.inputs.items()
            }
            for name, value in session.run(tensors, feed).items():
                outputs[f"{batch}:{name}"] = value
        np.savez(case["outputs"], **outputs)
        reachable = find_reachable(loaded.graph_def, tensors.values())
        return {
            "signatures": sorted(loaded.signature_def),
            "inputs": {
                name: [size.size for size in info.tensor_shape.dim]
                for name, info in signature.inputs.items()
            },
            "outputs": sorted(signature.outputs),
            "ops": collections.Counter(node.op for node, _ in reachable),
            "gathers_by_constant": sum(
                gathers_by_constant(*each) for each in reachable
            ),
        }


def main():
    try:
        import keras_comet  # noqa: F401
    except ImportError:
        pass
    else:
        raise SystemExit("keras_comet can be imported, so this proves nothing")
    cases_path, report_path = sys.argv[1:]
    with open(cases_path) as file:
        cases = json.load(file)
    report = [serve(case) for case in cases]
    with open(report_path, "w") as file:
        json.dump(report, file)


if __name__ == "__main__":
    main()

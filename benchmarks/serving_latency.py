"""Latency of exported SavedModels in a process that serves them.

    python -m benchmarks.serving_latency [--smoke] [--rounds N]

Exports a recommender twice, with sparse and with dense dispatch, and hard
routing in both. Another process loads both with the session loader, which is
what TensorFlow Serving uses, and times requests in turns.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from typing import Any

import numpy as np

from benchmarks.report import Report
from benchmarks.report import run_program

BATCHES = (1, 32, 512)

# Requests for each round that the command line asks for.
_REQUESTS = 20


def serve(paths: dict[str, str], inputs: str, requests: int) -> Any:
    """Times requests to several SavedModels in turns, in this process.

    Args:
        paths: dict from name to the path of a SavedModel.
        inputs: str. Path of an .npz with the inputs by name.
        requests: int. Number of requests to each, for each batch size.

    Returns:
        A dict from batch size to a dict from name to a list of seconds.
    """
    import tensorflow as tf

    values = np.load(inputs)
    calls = {}
    for name, path in paths.items():
        session = tf.compat.v1.Session(graph=tf.Graph())
        with session.graph.as_default():
            loaded = tf.compat.v1.saved_model.load(session, ["serve"], path)
        signature = loaded.signature_def["serving_default"]
        names = list(signature.inputs)
        calls[name] = (
            names,
            session.make_callable(
                [info.name for info in signature.outputs.values()],
                feed_list=[signature.inputs[n].name for n in names],
            ),
        )
    seconds: dict[int, dict[str, list[float]]] = {}
    for batch in BATCHES:
        seconds[batch] = {name: [] for name in paths}
        for request in range(-10, requests):  # ten to warm up
            order = list(calls.items())
            for name, (names, call) in order if request % 2 else order[::-1]:
                feed = [values[n][:batch] for n in names]
                begin = time.perf_counter()
                call(*feed)
                if request >= 0:
                    elapsed = time.perf_counter() - begin
                    seconds[batch][name].append(elapsed)
    return seconds


def export(directory: pathlib.Path, smoke: bool) -> dict[str, dict[str, str]]:
    """Writes the SavedModels and the inputs.

    Returns:
        For each model, a dict from dispatch to the path of its SavedModel.
    """
    import keras_comet
    from benchmarks import movielens

    data = movielens.load_data(smoke)
    rows = {
        name: values[: max(BATCHES)]
        for name, values in data.train.features.items()
    }
    np.savez(directory / "inputs.npz", **rows)
    num_experts = 4 if smoke else movielens.NUM_EXPERTS
    sizes = (4, [16]) if smoke else (64, [1024, 256])
    experts = {
        f"n={num_experts}, Dense(256)": (
            lambda: movielens.dense_experts(num_experts)
        ),
        f"n={sizes[0]}, stacked {'-'.join(map(str, sizes[1]))}": (
            lambda: keras_comet.StackedDenseExperts(*sizes, "relu")
        ),
    }
    paths: dict[str, dict[str, str]] = {}
    for index, (label, make) in enumerate(experts.items()):
        paths[label] = {}
        for dispatch in ("auto", "dense"):
            model = movielens.make_model(data, dispatch, make())
            path = str(directory / f"{index}_{dispatch}")
            keras_comet.export_saved_model(model, path, hard_routing=True)
            paths[label][dispatch] = path
    return paths


def run(report: Report, rounds: int, smoke: bool) -> None:
    """Exports, serves in another process, and compares."""
    requests = rounds * _REQUESTS
    with tempfile.TemporaryDirectory() as name:
        directory = pathlib.Path(name)
        for label, paths in export(directory, smoke).items():
            request = [paths, str(directory / "inputs.npz"), requests]
            output = subprocess.run(
                [
                    sys.executable,
                    "-m",
                    "benchmarks.serving_latency",
                    "--child",
                    json.dumps(request),
                ],
                check=True,
                stdout=subprocess.PIPE,
                text=True,
                env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"},
            ).stdout
            seconds = json.loads(output.splitlines()[-1])
            for batch, by_name in seconds.items():
                report.add(
                    "Latency of a request, ms",
                    [
                        _row(label, int(batch), dispatch, values)
                        for dispatch, values in by_name.items()
                    ],
                )


def _row(
    label: str, batch: int, dispatch: str, seconds: list[float]
) -> dict[str, Any]:
    p50, p99 = 1e3 * np.quantile(seconds, [0.5, 0.99])
    return {
        "model": label,
        "batch": batch,
        "dispatch": dispatch,
        "p50": float(p50),
        "p99": float(p99),
        "requests": len(seconds),
    }


def main() -> None:
    """Runs the benchmark, or the process that serves."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--child")
    args, others = parser.parse_known_args()
    if args.child is None:
        run_program("serving_latency", __doc__ or "", run, others)
    else:
        print(json.dumps(serve(*json.loads(args.child))))


if __name__ == "__main__":
    main()

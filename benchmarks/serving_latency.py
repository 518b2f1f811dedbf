"""Latency of exported SavedModels in processes that serve them.

Exports a recommender twice, with sparse and with dense dispatch, and hard
routing in both. Another process loads both with the session loader, which is
what TensorFlow Serving uses, and times requests in turns. Where there is a
compiler, a C program does the same without Python, a process for each export
and round, in turns.
"""

import pathlib
import subprocess
import tempfile
import time

import keras
import numpy as np
import tensorflow as tf

import keras_comet
from benchmarks import c_server
from benchmarks.processes import call_in_a_process
from benchmarks.report import Report
from examples import movielens_model as movielens

BATCHES = (1, 32, 512)

# Requests for each round that the command line asks for.
_REQUESTS = 20


def serve(
    paths: dict[str, str], inputs: str, requests: int
) -> dict[int, dict[str, list[float]]]:
    """Times requests to several SavedModels in turns, in this process.

    Args:
        paths: dict from name to the path of a SavedModel.
        inputs: str. Path of an .npz with the inputs by name.
        requests: int. Number of requests to each, for each batch size.

    Returns:
        A dict from batch size to a dict from name to a list of seconds.
    """
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


def serve_in_c(
    paths: dict[str, str], inputs: str, rounds: int
) -> dict[int, dict[str, list[float]]]:
    """Times requests to several SavedModels, in processes of the C program.

    Args:
        paths: dict from name to the path of a SavedModel.
        inputs: str. Path of an .npz with the inputs by name.
        rounds: int. Number of processes for each, with 20 requests each.

    Returns:
        As `serve`.
    """
    values = np.load(inputs)
    seconds: dict[int, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory() as name:
        directory = pathlib.Path(name)
        program = c_server.compile_server(directory)
        for batch in BATCHES:
            seconds[batch] = {name: [] for name in paths}
            request = c_server.write_request(
                {name: values[name][:batch] for name in values.files},
                directory / str(batch),
            )
            for number in range(rounds):
                order = list(paths.items())
                for name, path in order if number % 2 else order[::-1]:
                    answer = subprocess.run(
                        [program, "-r", str(_REQUESTS), path, *request],
                        check=True,
                        stdout=subprocess.PIPE,
                        text=True,
                    ).stdout
                    seconds[batch][name] += map(float, answer.split()[1:])
    return seconds


def export(
    directory: pathlib.Path, num_experts: int, units: list[int], smoke: bool
) -> tuple[dict[str, str], str]:
    """Writes the SavedModels and the inputs.

    Args:
        directory: path.
        num_experts: int.
        units: list of int. Widths of the layers of the experts: one layer
            and dropout as in the MovieLens model, or several, stacked.
        smoke: bool. Whether the synthetic data set is enough.

    Returns:
        A dict from dispatch to the path of a SavedModel, and the path of the
        inputs.
    """
    data = movielens.load_data(smoke)
    inputs = str(directory / "inputs.npz")
    np.savez(
        inputs,
        **{n: v[: max(BATCHES)] for n, v in data.train.features.items()},
    )
    paths = {}
    for dispatch in ("auto", "dense"):
        keras.utils.set_random_seed(0)
        model = movielens.make_model(
            data,
            lambda: keras_comet.COMETGate(num_experts, k=movielens.K),
            movielens.make_experts(num_experts, *units)
            if len(units) == 1
            else keras_comet.StackedDenseExperts(num_experts, units, "relu"),
            dispatch=dispatch,
        )
        paths[dispatch] = str(directory / dispatch)
        keras_comet.export_saved_model(
            model, paths[dispatch], hard_routing=True
        )
    return paths, inputs


def run(report: Report, rounds: int, smoke: bool) -> None:
    """Exports, serves in another process, and compares."""
    sizes = [(2, [8])] if smoke else [(16, [256]), (64, [1024, 256])]
    for num_experts, units in sizes:
        with tempfile.TemporaryDirectory() as name:
            exported = export(pathlib.Path(name), num_experts, units, smoke)
            served = {
                "Python": call_in_a_process(
                    serve, *exported, rounds * _REQUESTS
                )
            }
            if c_server.has_compiler():
                served["C"] = serve_in_c(*exported, rounds)
        for program, seconds in served.items():
            for batch, by_dispatch in seconds.items():
                for dispatch, values in by_dispatch.items():
                    p50, p99 = 1e3 * np.quantile(values, [0.5, 0.99])
                    row = {
                        "model": f"n={num_experts}, "
                        f"{'-'.join(map(str, units))}",
                        "served by": program,
                        "batch": batch,
                        "dispatch": dispatch,
                        "p50": float(p50),
                        "p99": float(p99),
                        "requests": len(values),
                    }
                    report.add("Latency of a request, ms", [row])

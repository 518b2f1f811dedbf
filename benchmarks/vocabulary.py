"""A vocabulary of a million strings: made, saved, loaded and exported.

In a process of its own, as the memory of the process is measured. The table of
embeddings is 32 wide. Linux only, as the memory is read from /proc.
"""

import gc
import pathlib
import tempfile
import time
from collections.abc import Callable

import keras

import keras_comet
from benchmarks.memory import read_peak
from benchmarks.processes import call_in_a_process
from benchmarks.report import Report

NUM_IDS = 1_000_000
SMOKE_NUM_IDS = 1000
_DIM = 32


def make_model(ids: list[str]) -> keras_comet.MultiGateRecommender:
    """Makes a small recommender with one large feature."""
    return keras_comet.MultiGateRecommender(
        {"user": keras_comet.CategoricalFeature(ids, _DIM)},
        [keras.layers.Dense(4) for _ in range(2)],
        {"click": keras_comet.TopKGate(2, k=1)},
        [keras_comet.Task("click", "mse")],
    )


def run_once(num_ids: int) -> dict[str, float]:
    """Does everything once, in this process.

    Args:
        num_ids: int.

    Returns:
        A dict with the seconds of each step, the resident memory that the
        model adds, and the peak of it all, in MB.
    """
    ids = [f"user {index:07d}" for index in range(num_ids)]
    before = _resident()
    figures = {}

    def timed(step: str, function: Callable[[], object]) -> object:
        begin = time.perf_counter()
        result = function()
        figures[f"{step}, s"] = time.perf_counter() - begin
        return result

    model = timed("construct", lambda: make_model(ids))
    gc.collect()
    figures["model, MB"] = _resident() - before
    with tempfile.TemporaryDirectory() as directory:
        path = pathlib.Path(directory)
        timed("save", lambda: model.save(path / "model.keras"))
        timed(
            "export",
            lambda: keras_comet.export_saved_model(model, path / "1"),
        )
        timed("load", lambda: keras.models.load_model(path / "model.keras"))
    figures["peak, MB"] = read_peak() - before
    return figures


def _resident() -> float:
    """Reads the resident memory of this process, in MB."""
    status = pathlib.Path("/proc/self/status").read_text()
    line = next(x for x in status.splitlines() if x.startswith("VmRSS"))
    return float(line.split()[1]) / 1024


def run(report: Report, rounds: int, smoke: bool) -> None:
    """Runs it once, as it takes a while."""
    num_ids = SMOKE_NUM_IDS if smoke else NUM_IDS
    figures = call_in_a_process(run_once, num_ids)
    table = num_ids * _DIM * 4 / 2**20
    report.add(
        "A vocabulary of strings",
        [{"ids": num_ids, "table, MB": table, **figures}],
    )
    if smoke:
        return
    for step in ("construct", "save", "load", "export"):
        report.require(
            f"{step} {num_ids} ids", "s", "<=", 20.0, figures[f"{step}, s"], 1
        )
    report.require(
        "memory of the model",
        "x that of its table",
        "<=",
        1.5,
        figures["model, MB"] / table,
        1,
    )

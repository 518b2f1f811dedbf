import os
import socket
import subprocess
import sys

import numpy as np
import pytest

from tests.helpers import ROOT
from tests.helpers import run_program

PROGRAM = "examples/distributed.py"


def find_ports(count):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def run_together(directory, *arguments):
    """Runs two processes that train together, and returns what they wrote."""
    workers = ",".join(f"127.0.0.1:{port}" for port in find_ports(2))
    outputs = [directory / f"worker_{index}.npz" for index in (0, 1)]
    processes = [
        subprocess.Popen(
            [sys.executable, PROGRAM, f"--workers={workers}"]
            + [f"--index={index}", f"--output={output}", *arguments],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            cwd=ROOT,
        )
        for index, output in enumerate(outputs)
    ]
    try:
        assert [each.wait(timeout=900) for each in processes] == [0, 0]
    finally:
        for each in processes:
            each.kill()
    return [np.load(output) for output in outputs]


@pytest.mark.slow
@pytest.mark.parametrize("legacy", ["0", "1"])
def test_two_workers_do_as_one_process(legacy, tmp_path, monkeypatch):
    monkeypatch.setenv("TF_USE_LEGACY_KERAS", legacy)
    run_program(PROGRAM, f"--output={tmp_path / 'one.npz'}")
    one = np.load(tmp_path / "one.npz")
    checkpoints = tmp_path / "checkpoints"
    # Stopped after an epoch, to be resumed.
    run_together(tmp_path, "--epochs=1", f"--checkpoint-dir={checkpoints}")
    assert sorted(os.listdir(checkpoints)) == [
        "checkpoint",
        "update-8.data-00000-of-00001",
        "update-8.index",
    ]
    first, second = run_together(tmp_path, f"--checkpoint-dir={checkpoints}")
    assert len(one["losses"]) == 3
    assert one["losses"][-1] < one["losses"][0]
    assert len(one["searches"]) == 4
    for name in one.files:
        np.testing.assert_array_equal(first[name], second[name])
        np.testing.assert_allclose(
            first[name], one[name], rtol=1e-5, atol=2e-5, err_msg=name
        )

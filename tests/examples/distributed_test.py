import os
import signal
import socket
import subprocess
import sys

import numpy as np
import pytest

from tests.helpers import ROOT
from tests.helpers import run_program

EXAMPLES = ROOT / "examples"
PROGRAM = str(EXAMPLES / "distributed.py")


def find_ports(count):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


# A worker that is killed in the midst of the second epoch.
KILLED = """
import os
import signal

import distributed
from keras_comet import Trainer
from keras_comet._keras import keras


class Die(keras.callbacks.Callback):
    updates = 0

    def on_train_batch_end(self, batch, logs=None):
        self.updates += 1
        if self.updates == 30:
            os.kill(os.getpid(), signal.SIGKILL)


class DyingTrainer(Trainer):
    def fit(self, *args, **kwargs):
        return super().fit(*args, callbacks=[Die()], **kwargs)


distributed.keras_comet.Trainer = DyingTrainer
distributed.main()
"""


def run_together(*programs):
    """Runs processes that train together, and returns their exit codes."""
    addresses = [f"127.0.0.1:{port}" for port in find_ports(len(programs))]
    processes = [
        subprocess.Popen(
            [sys.executable, *program, f"--index={index}"]
            + [f"--workers={','.join(addresses)}"],
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join([str(ROOT), str(EXAMPLES)]),
            },
            cwd=ROOT,
        )
        for index, program in enumerate(programs)
    ]
    try:
        return [each.wait(timeout=900) for each in processes]
    finally:
        for each in processes:
            each.kill()


@pytest.mark.slow
@pytest.mark.parametrize("legacy", ["0", "1"])
def test_two_workers_do_as_one_process_though_one_was_killed(
    legacy, tmp_path, monkeypatch
):
    monkeypatch.setenv("TF_USE_LEGACY_KERAS", legacy)
    # 50 updates, and a search after every fourth up to the 48th.
    arguments = ["--epochs=2", "--num-batches=25", "--search-steps=48"]
    outputs = [tmp_path / f"{name}.npz" for name in ("one", "first", "second")]
    run_program(PROGRAM, *arguments, f"--output={outputs[0]}")
    checkpoints = tmp_path / "checkpoints"
    arguments.append(f"--checkpoint-dir={checkpoints}")
    codes = run_together([PROGRAM, *arguments], ["-c", KILLED, *arguments])
    # The other one cannot go on alone.
    assert codes == [1, -signal.SIGKILL]
    assert sorted(os.listdir(checkpoints)) == [
        "checkpoint",
        "update-25.data-00000-of-00001",
        "update-25.index",
    ]
    written = (checkpoints / "update-25.index").stat().st_mtime_ns
    codes = run_together(
        *([PROGRAM, *arguments, f"--output={path}"] for path in outputs[1:])
    )
    assert codes == [0, 0]
    # Not trained from the beginning again.
    assert (checkpoints / "update-25.index").stat().st_mtime_ns == written
    assert (checkpoints / "update-50.index").exists()
    one, first, second = (np.load(output) for output in outputs)
    assert len(one["losses"]) == 2
    assert one["losses"][-1] < one["losses"][0]
    assert len(one["searches"]) == 12
    for name in one.files:
        np.testing.assert_array_equal(first[name], second[name])
        # Adam makes more of what is rounded in a small gradient.
        absolute = 0.0 if name in ("losses", "searches") else 2e-5
        np.testing.assert_allclose(
            first[name], one[name], rtol=1e-5, atol=absolute, err_msg=name
        )

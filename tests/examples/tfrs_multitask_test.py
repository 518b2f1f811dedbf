import os
import subprocess
import sys

import pytest

from tests.helpers import ROOT
from tests.helpers import run_program

PROGRAM = "examples/tfrs_multitask.py"


@pytest.mark.slow
def test_smoke_run_ranks_retrieves_and_serves(tmp_path, monkeypatch):
    monkeypatch.setenv("TF_USE_LEGACY_KERAS", "1")
    output = run_program(
        PROGRAM, "--smoke", "--verbose=0", f"--output-dir={tmp_path}"
    )
    assert "| AUC of watch | 0." in output
    assert "| watched film among 100 retrieved |" in output
    assert "| rows within 2 experts | 100.0% |" in output
    assert output.count("  watch 0.") == 5
    difference = output.split("largest difference to Keras ")[1]
    assert float(difference.split()[0]) < 1e-5


def test_keras_3_is_told_what_to_set():
    environment = {**os.environ, "TF_USE_LEGACY_KERAS": "0"}
    finished = subprocess.run(
        [sys.executable, PROGRAM],
        capture_output=True,
        text=True,
        env=environment,
        cwd=ROOT,
    )
    assert finished.returncode == 1
    assert finished.stderr.splitlines()[-1].endswith(
        f"TF_USE_LEGACY_KERAS=1 python {PROGRAM}"
    )

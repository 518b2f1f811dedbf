import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("part", "file"),
    [
        ("grid", "grid_synthetic.png"),
        ("search", "search_synthetic.md"),
        ("curves", "cardinality.png"),
    ],
)
def test_smoke_run_writes_a_table_or_a_plot(part, file, tmp_path):
    # Written for Keras 3, whichever is tested here.
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("TF_USE_LEGACY_KERAS", None)
    output = subprocess.run(
        [
            sys.executable,
            str(ROOT / "benchmarks" / "cardinality.py"),
            part,
            "--smoke",
            f"--output-dir={tmp_path}",
        ],
        check=True,
        capture_output=True,
        text=True,
        env=environment,
    ).stdout
    assert "100.00%" in output
    assert (tmp_path / file).stat().st_size > 100

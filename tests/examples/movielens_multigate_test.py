import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[2]


def test_smoke_run_prints_a_table_and_serves(tmp_path):
    script = ROOT / "examples" / "movielens_multigate.py"
    output = subprocess.run(
        [
            sys.executable,
            str(script),
            "--smoke",
            "--verbose=0",
            "--cardinality-by=1",
            f"--output-dir={tmp_path}",
        ],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ).stdout
    assert "| comet |" in output
    assert "| 100.0% |" in output
    assert "largest difference to Keras" in output
    for name in ("learning_curves.png", "expert_usage.png"):
        assert (tmp_path / name).stat().st_size > 10_000

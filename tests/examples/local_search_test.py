import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[2]


def test_smoke_run_recovers_and_rescues(tmp_path):
    # The example is written for Keras 3, whichever is tested here.
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("TF_USE_LEGACY_KERAS", None)
    script = ROOT / "examples" / "local_search.py"
    output = subprocess.run(
        [sys.executable, str(script), "--smoke", f"--output-dir={tmp_path}"],
        check=True,
        capture_output=True,
        text=True,
        env=environment,
    ).stdout
    assert "certified: True" in output
    for gate in ("hash", "top_k"):
        assert f"| {gate} |" in output
    assert (tmp_path / "local_search.png").stat().st_size > 10_000

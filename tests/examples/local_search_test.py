import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[2]


def test_smoke_run_recovers_and_rescues(tmp_path):
    script = ROOT / "examples" / "local_search.py"
    output = subprocess.run(
        [sys.executable, str(script), "--smoke", f"--output-dir={tmp_path}"],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ).stdout
    assert "certified: True" in output
    for gate in ("hash", "top_k"):
        assert f"| {gate} |" in output
    assert (tmp_path / "local_search.png").stat().st_size > 10_000

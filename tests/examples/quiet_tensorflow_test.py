import os
import pathlib
import subprocess
import sys

import pytest

EXAMPLES = pathlib.Path(__file__).parents[2] / "examples"


def run(directory, tensorflow, level=None):
    """Imports a TensorFlow of one's own, and returns what was printed."""
    (directory / "tensorflow.py").write_text(tensorflow)
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(directory), str(EXAMPLES)]),
    }
    environment.pop("TF_CPP_MIN_LOG_LEVEL", None)
    if level is not None:
        environment["TF_CPP_MIN_LOG_LEVEL"] = level
    return subprocess.run(
        [
            sys.executable,
            "-c",
            "import quiet_tensorflow, os, tensorflow\nos.write(2, b'later')",
        ],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_what_the_import_prints_is_kept_back_and_no_more(tmp_path):
    result = run(tmp_path, "import os\nos.write(2, b'no GPU, ')")
    assert result.returncode == 0
    assert result.stderr == "later"


@pytest.mark.parametrize("level", ["0", "2"])
def test_another_log_level_shows_it(tmp_path, level):
    result = run(tmp_path, "import os\nos.write(2, b'no GPU, ')", level)
    assert result.stderr == "no GPU, later"


def test_a_failing_import_shows_everything(tmp_path):
    result = run(
        tmp_path,
        "import os\nos.write(2, b'bad library')\nraise ImportError('no TF')",
    )
    assert result.returncode != 0
    assert "bad library" in result.stderr
    assert "ImportError: no TF" in result.stderr

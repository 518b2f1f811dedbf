import importlib.util

import pytest

from tests.helpers import run_program
from tests.helpers import run_script

PROGRAM = "examples/keras_rs_multitask.py"


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("keras_rs") is None,
    reason="keras-rs is not installed: pip install 'keras-comet[keras_rs]'",
)
def test_smoke_run_ranks_retrieves_and_serves(tmp_path):
    output = run_program(
        PROGRAM, "--smoke", "--verbose=0", f"--output-dir={tmp_path}"
    )
    assert "| AUC of watch | 0." in output
    assert "| NDCG of 10 films by watch times rating | 0." in output
    assert "| watched film among 100 retrieved |" in output
    assert "| rows within 2 experts | 100.0% |" in output
    assert output.count("  watch 0.") == 5
    difference = output.split("largest difference to Keras ")[1]
    assert float(difference.split()[0]) < 1e-5


def test_keras_2_is_told_what_there_is():
    finished = run_script(
        f"import runpy; runpy.run_path({PROGRAM!r}, run_name='__main__')",
        TF_USE_LEGACY_KERAS="1",
    )
    assert finished.returncode == 1
    assert "start Python without TF_USE_LEGACY_KERAS" in finished.stderr

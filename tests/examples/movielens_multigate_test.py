import pytest

from tests.helpers import run_program


@pytest.mark.slow
def test_smoke_run_prints_a_table_and_serves(tmp_path):
    output = run_program(
        "examples/movielens_multigate.py",
        "--smoke",
        "--verbose=0",
        f"--output-dir={tmp_path}",
    )
    assert "| one |" in output
    assert "| comet |" in output
    assert "| 100.0% |" in output
    assert "largest difference to Keras" in output
    for name in ("learning_curves.png", "expert_usage.png"):
        assert (tmp_path / name).stat().st_size > 10_000

import pytest

from tests.helpers import run_program


@pytest.mark.slow
def test_smoke_run_recovers_and_rescues(tmp_path):
    output = run_program(
        "examples/local_search.py", "--smoke", f"--output-dir={tmp_path}"
    )
    assert "is_local_optimum: True" in output
    for gate in ("hash", "top_k"):
        assert f"| {gate} |" in output
    assert (tmp_path / "local_search.png").stat().st_size > 10_000

import pytest

from tests.helpers import run_program


@pytest.mark.slow
def test_smoke_run_prints_what_the_gate_is_worth(tmp_path):
    output = run_program(
        "examples/image_domains.py",
        "--smoke",
        "--verbose=0",
        f"--output-dir={tmp_path}",
    )
    assert "| one |" in output
    assert "| comet |" in output
    assert "best single expert" in output
    assert "How alike the experts are" in output
    assert (tmp_path / "experts_by_class.png").stat().st_size > 10_000

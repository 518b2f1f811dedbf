import pytest

from tests.helpers import run_program


@pytest.mark.slow
@pytest.mark.parametrize(
    ("part", "found", "file"),
    [
        ("grid", "1 cells: at least 100.00%", "grid_synthetic.png"),
        ("search", "100.00% of rows", "cardinality_search_synthetic.md"),
        ("curves", "100.00%", "cardinality.png"),
    ],
)
def test_smoke_run_writes_a_table_or_a_plot(part, found, file, tmp_path):
    output = run_program(
        "-m",
        "benchmarks.cardinality",
        part,
        "--smoke",
        f"--output-dir={tmp_path}",
    )
    assert found in output
    assert (tmp_path / file).stat().st_size > 100

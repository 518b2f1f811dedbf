import pytest

from tests.studies.smoke import run_study


@pytest.mark.slow
@pytest.mark.parametrize(
    ("part", "expected", "file"),
    [
        ("grid", "1 cells: at least 100.00%", "grid_synthetic.png"),
        ("search", "100.00% of rows", "cardinality_search_synthetic.md"),
        ("curves", "100.00%", "cardinality.png"),
    ],
)
def test_smoke_run_writes_a_table_or_a_plot(
    part, expected, file, tmp_path, monkeypatch, capsys
):
    run_study(monkeypatch, "cardinality", part, f"--output-dir={tmp_path}")
    assert expected in capsys.readouterr().out
    assert (tmp_path / file).stat().st_size > 100

import json

import pytest

from benchmarks.measure import Ratio
from benchmarks.measure import Timing
from benchmarks.report import Bar
from benchmarks.report import Report
from benchmarks.report import bars_to_markdown
from benchmarks.report import load_bars


@pytest.mark.parametrize(
    ("relation", "measured", "reached"),
    [
        (">=", 3.1, True),
        (">=", 3.0, True),
        (">=", 2.9, False),
        ("<=", 2.9, True),
        ("<=", 3.0, True),
        ("<=", 3.1, False),
        ("<=", float("nan"), False),
    ],
)
def test_bar_is_reached_on_the_right_side(relation, measured, reached):
    assert Bar("case", "x", relation, 3.0, measured, 5).reached is reached


def test_table_of_bars_shows_case_bar_measured_and_reached():
    bars = [
        Bar("quick", "x faster", ">=", 3.0, 4.126, 7, 4.5),
        Bar("small", "x the memory", "<=", 1.0, 1.5, 2),
    ]
    assert bars_to_markdown(bars).splitlines() == [
        "| case | bar | measured | reached | by CPU time | rounds |",
        "| --- | --- | --- | --- | --- | --- |",
        "| quick | x faster >= 3 | 4.13 | yes | 4.50 | 7 |",
        "| small | x the memory <= 1 | 1.50 | no |  | 2 |",
    ]


def test_report_writes_json_and_markdown(tmp_path):
    report = Report("speed", tmp_path, smoke=False)
    report.add_timings("Times", {"a": Timing(1, 2, 3, 4, 5)}, case="small")
    report.require("small", "x", ">=", 2.0, Ratio(3.0, 2.5, 5))
    report.note("A remark.")
    content = json.loads((tmp_path / "speed.json").read_text())
    assert content["tables"]["Times"] == [
        {
            "case": "small",
            "method": "a",
            "ms": 2000,
            "lower quartile": 1000,
            "upper quartile": 3000,
            "CPU ms": 4000,
            "rounds": 5,
        }
    ]
    assert load_bars(tmp_path / "speed.json") == [
        Bar("small", "x", ">=", 2.0, 3.0, 5, 2.5)
    ]
    text = (tmp_path / "speed.md").read_text()
    assert "| small | x >= 2 | 3.00 | yes | 2.50 | 5 |" in text
    assert "| small | a | 2000 | 1000 | 3000 | 4000 | 5 |" in text
    assert text.endswith("A remark.\n")

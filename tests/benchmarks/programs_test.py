"""Every benchmark runs, and writes what it says."""

import json

import pytest

from tests.helpers import run_program

# Programs, with the number of bars and the plots of a quick look.
PROGRAMS = {
    "dispatch_speed": (13, []),
    "gate_speed": (0, []),
    "training_speed": (5, ["movielens_epochs.png"]),
    "memory": (2, []),
    "serving_latency": (0, []),
    "training_profile": (0, []),
    "cardinality_overhead": (1, []),
    "local_search": (7, []),
    "local_search_movielens": (0, []),
}


# They build and trace many models, even small ones.
LONG = {
    "dispatch_speed",
    "training_speed",
    "training_profile",
    "cardinality_overhead",
    "local_search",
    "local_search_movielens",
}


@pytest.mark.parametrize(
    "program",
    [
        pytest.param(name, marks=[pytest.mark.slow] if name in LONG else [])
        for name in PROGRAMS
    ],
)
def test_smoke_run_writes_tables_and_bars(program, tmp_path):
    run_program(
        "-m",
        f"benchmarks.{program}",
        "--smoke",
        f"--output-dir={tmp_path}",
    )
    content = json.loads((tmp_path / f"{program}.json").read_text())
    num_bars, plots = PROGRAMS[program]
    assert content["smoke"] and content["tables"]
    assert len(content["bars"]) == num_bars
    for bar in content["bars"]:
        assert bar["measured"] > 0.0
        assert bar["rounds"] >= 1
    assert f"# {program}" in (tmp_path / f"{program}.md").read_text()
    for plot in plots:
        assert (tmp_path / plot).stat().st_size > 5_000


@pytest.mark.slow
def test_one_command_runs_all_and_prints_the_bars(tmp_path):
    output = run_program(
        "-m", "benchmarks", "--smoke", f"--output-dir={tmp_path}"
    )
    speed = [name for name in PROGRAMS if not name.startswith("local_search")]
    for program in speed:
        assert f"# {program}" in output
    table = output[output.index("# Bars") :]
    assert table.count("\n| ") == 2 + sum(PROGRAMS[each][0] for each in speed)
    assert (tmp_path / "bars.md").exists()

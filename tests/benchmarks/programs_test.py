"""Every benchmark runs, and writes what it says."""

import argparse
import json
import pathlib
import subprocess
from types import SimpleNamespace

import pytest

from benchmarks import __main__ as benchmarks
from benchmarks.report import Report
from tests.helpers import run_program

# Programs, with the number of bars and the plots of a quick look.
PROGRAMS = {
    "dispatch_speed": (13, []),
    "gate_speed": (0, []),
    "union_cap": (1, []),
    "training_speed": (6, ["movielens_epochs.png"]),
    "memory": (2, []),
    "serving_latency": (0, []),
    "vocabulary": (0, []),
}


@pytest.fixture(scope="module")
def quick_look(tmp_path_factory):
    """Runs all programs in one process; gives the directory and the output."""
    directory = tmp_path_factory.mktemp("benchmarks")
    output = run_program(
        "-m", "benchmarks", "--smoke", f"--output-dir={directory}"
    )
    return directory, output


# All programs together are the longest set-up of all tests.
@pytest.mark.slow
@pytest.mark.parametrize("program", PROGRAMS)
def test_smoke_run_writes_tables_and_bars(program, quick_look):
    directory, _ = quick_look
    content = json.loads((directory / f"{program}.json").read_text())
    num_bars, plots = PROGRAMS[program]
    assert content["smoke"] and content["tables"]
    assert len(content["bars"]) == num_bars
    for bar in content["bars"]:
        assert bar["measured"] > 0.0
        assert bar["rounds"] >= 1
    assert f"# {program}" in (directory / f"{program}.md").read_text()
    for plot in plots:
        assert (directory / plot).stat().st_size > 5_000


@pytest.mark.slow
def test_one_command_runs_all_and_prints_the_bars(quick_look):
    directory, output = quick_look
    for program in PROGRAMS:
        assert f"# {program}" in output
    table = output[output.index("# Bars") :]
    num_bars = sum(number for number, _ in PROGRAMS.values())
    assert table.count("\n| ") == 2 + num_bars
    assert (directory / "bars.md").exists()


def test_every_program_has_a_smoke_run():
    assert set(benchmarks.PROGRAMS) == set(PROGRAMS)


def test_one_that_fails_takes_no_other_with_it(monkeypatch, tmp_path, capsys):
    def run(command):
        assert command[1:3] == ["-m", "benchmarks"]
        assert command[4:] == ["--rounds=3", f"--output-dir={tmp_path}"]
        if command[3] == "memory":
            return SimpleNamespace(returncode=1)
        report = Report(command[3], tmp_path, smoke=False)
        report.require(f"case of {command[3]}", "x", ">=", 2.0, 3.0, 5)
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(SystemExit, match="Failed before the end: memory"):
        benchmarks.main(["--rounds=3", f"--output-dir={tmp_path}"])
    table = capsys.readouterr().out
    for program in PROGRAMS:
        assert (f"case of {program}" in table) == (program != "memory")


def test_one_name_runs_in_this_process(monkeypatch, tmp_path):
    ran = []
    monkeypatch.setattr(
        benchmarks, "run_program", lambda name, args: ran.append((name, args))
    )
    benchmarks.main(["memory", f"--output-dir={tmp_path}"])
    [(name, args)] = ran
    assert name == "memory"
    assert isinstance(args, argparse.Namespace)
    assert args.output_dir == pathlib.Path(tmp_path)


def test_unknown_name_is_refused(capsys):
    with pytest.raises(SystemExit):
        benchmarks.main(["velocity"])
    assert "No benchmark ['velocity']. Expected: " in capsys.readouterr().err

import types

import pytest

import studies.training
from studies.command import run_command
from studies.command import run_study
from tests.studies.killed import kill_and_go_on
from tests.studies.protocol_test import record

# A study whose losses are known and whose runs take no time: no TensorFlow.
TOY = """
import math, pathlib, sys, time, types
from studies.command import run_study
from studies.records import Record
study = types.SimpleNamespace(name="toy", first_steps=(0, 1))
def train(study, run, smoke):
    time.sleep(float(sys.argv[2]))
    loss = abs(math.log(run.learning_rate / 1e-3)) + 0.01 * run.seed
    loss += 0.1 * len(run.arm)
    return Record("toy", *run, loss, 2 * loss, .5, 2., 1., 0, 9., 9, 3, 0.)
sys.modules["studies.training"] = types.SimpleNamespace(train=train)
run_study(study, ["a", "bc"], pathlib.Path(sys.argv[1]), 3, 1)
"""


def test_killed_study_goes_on_to_the_same_lines(tmp_path):
    texts = kill_and_go_on(TOY, tmp_path, "toy,a,0.0")
    # Rates 2e-3, 5e-3, 8e-4 and 3.2e-4 for each arm, then two more seeds.
    assert texts.after.count("\n") == 1 + 2 * (4 + 2)
    assert texts.after == texts.whole
    assert texts.after.startswith(texts.before)


@pytest.fixture
def toy(monkeypatch):
    def train(study, run, smoke):
        return record(*run, validation_loss=run.learning_rate)

    monkeypatch.setattr(studies.training, "train", train)
    return types.SimpleNamespace(
        name="toy", score="AUC", arms={"a": None, "b": None}, first_steps=(0,)
    )


def test_finished_study_runs_nothing_again(toy, tmp_path, monkeypatch):
    path = tmp_path / "toy.csv"
    run_study(toy, ["a"], path, 2, 1)
    finished = path.read_text()
    monkeypatch.setattr(studies.training, "train", None)
    run_study(toy, ["a"], path, 2, 1)
    assert path.read_text() == finished


def test_table_is_rebuilt_without_training(toy, tmp_path, monkeypatch, capsys):
    arguments = ["--csv", str(tmp_path / "toy.csv"), "--seeds", "2"]
    run_command(toy, arguments)
    table = capsys.readouterr().out
    assert [line[:4] for line in table.splitlines()[2:]] == ["| a ", "| b "]
    monkeypatch.setattr(studies.training, "train", None)
    run_command(toy, [*arguments, "--table"])
    assert capsys.readouterr().out == table


def test_smoke_runs_the_arms_named_once(toy, capsys):
    run_command(toy, ["--smoke", "--arms", "b"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert lines[2].startswith("| b | 0.001 | 1 |")


def test_unknown_arm_is_refused(toy, capsys):
    with pytest.raises(SystemExit):
        run_command(toy, ["--arms", "a,c"])
    assert "arms ['c'] are not among ['a', 'b']" in capsys.readouterr().err

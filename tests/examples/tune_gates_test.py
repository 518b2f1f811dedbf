import keras
import pytest

from tests.helpers import run_program


@pytest.mark.slow
def test_smoke_run_tunes_saves_the_best_and_goes_on(tmp_path):
    arguments = (
        "examples/tune_gates.py",
        "--smoke",
        f"--output-dir={tmp_path}",
    )
    output = run_program(*arguments)
    assert count_trials(output) == 4
    best = keras.models.load_model(tmp_path / "best.keras")
    assert [task.name for task in best.tasks] == ["task_0", "task_1"]
    assert (tmp_path / "expected_best.png").stat().st_size > 10_000
    assert count_trials(run_program(*arguments)) == 8


def count_trials(output):
    rows = [line for line in output.splitlines() if line.startswith("| ")]
    return sum(int(row.split(" | ")[1]) for row in rows[1:])

import os
import pathlib
import subprocess

import numpy as np
import pytest

from benchmarks import c_server
from keras_comet import datasets
from tests.helpers import ROOT
from tests.helpers import run_program
from tests.helpers import run_script

PROGRAM = "examples/movielens_multigate.py"
CACHE = pathlib.Path(
    os.environ.get("KERAS_COMET_CACHE", "~/.cache/keras_comet")
).expanduser()


def read_best(output):
    """The ten best, as the program printed them: names by rank."""
    _, _, printed = output.partition("The ten best ")
    lines = printed.splitlines()[1:11]
    assert all(line.startswith("  ") for line in lines)
    return [line.split("  ", 3)[3] for line in lines]


def check_served_in_c(directory, best, name_rows):
    """Compares scores, and the order of the best, with the C program's."""
    inputs, expected = (
        dict(np.load(directory / f"{name}.npz"))
        for name in ("inputs", "outputs")
    )
    answer = subprocess.run(
        [
            c_server.compile_server(directory),
            directory / "saved_model",
            *c_server.write_request(inputs, directory / "request"),
        ],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout
    _, *lines = answer.splitlines()
    served = {task: [] for task in expected}
    for line in lines:
        task, score = line.split(",")
        served[task].append(float(score))
    for task, scores in expected.items():
        np.testing.assert_allclose(served[task], scores[:, 0], atol=1e-5)
    first = "watch" if "watch" in served else "task_0"
    order = np.argsort(-np.array(served[first]))[:10]
    assert [name_rows(inputs)[row] for row in order] == best


@pytest.mark.slow
def test_smoke_run_prints_a_table_and_serves(tmp_path):
    output = run_program(
        PROGRAM, "--smoke", "--verbose=0", f"--output-dir={tmp_path}"
    )
    assert "| one |" in output
    assert "| comet |" in output
    assert "| 100.0% |" in output
    assert "largest difference to Keras" in output
    for name in ("learning_curves.png", "expert_usage.png"):
        assert (tmp_path / name).stat().st_size > 10_000
    best = read_best(output)
    assert best != sorted(best)
    if c_server.has_compiler():
        check_served_in_c(
            tmp_path, best, lambda inputs: [f"row {n}" for n in range(64)]
        )


# On every 20th row, or the training alone would take minutes.
ON_A_PART = """
import dataclasses

import movielens_multigate as example
from keras_comet import datasets

load_data = example.load_data


def load_part(*args, **kwargs):
    data = load_data(*args, **kwargs)
    splits = {}
    for name in ("train", "validation", "test"):
        split = getattr(data, name)
        splits[name] = datasets.Split(
            {name: values[::20] for name, values in split.features.items()},
            {name: values[::20] for name, values in split.labels.items()},
        )
    # Of another name, so that it is not trained on ids alone as well.
    return dataclasses.replace(data, name="every 20th row", **splits)


example.load_data = load_part
example.main()
"""


@pytest.mark.slow
@pytest.mark.skipif(
    not (CACHE / "movielens_100k_v2.npz").exists(),
    reason="MovieLens is not in the cache",
)
@pytest.mark.skipif(
    not c_server.has_compiler(), reason="there is no C compiler, gcc"
)
def test_ten_best_films_are_those_of_the_c_program(tmp_path):
    finished = run_script(
        ON_A_PART,
        *("--epochs=1", "--num-experts=3", "--cardinality-by=1"),
        *("--verbose=0", f"--output-dir={tmp_path}"),
        PYTHONPATH=os.pathsep.join([str(ROOT), str(ROOT / "examples")]),
    )
    assert finished.returncode == 0, finished.stderr
    titles = datasets.movielens_100k().descriptions["item_id"]
    check_served_in_c(
        tmp_path,
        read_best(finished.stdout),
        lambda inputs: [titles[int(item)] for item in inputs["item_id"]],
    )

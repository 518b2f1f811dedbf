"""An export, served by a C program: no Python, the loader of TF Serving."""

import collections
import itertools
import subprocess

import numpy as np
import pytest
import tensorflow as tf

import keras_comet
from benchmarks import c_server
from keras_comet._keras import keras
from tests.helpers import rows

USERS = ["ann", "bob", "zoë"]
ITEMS = [f"film {i}" for i in range(12)]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not c_server.has_compiler(), reason="there is no C compiler, gcc"
    ),
]


def make_model():
    return keras_comet.MultiGateRecommender(
        features={
            "user": keras_comet.CategoricalFeature(USERS, 4),
            "item": keras_comet.CategoricalFeature(ITEMS, 4),
            "year": keras_comet.CategoricalFeature(range(1990, 1993), 4),
            "dense": keras_comet.NumericFeature([0.0] * 3, [1.0] * 3),
        },
        experts=keras_comet.StackedDenseExperts(3, [4], "relu"),
        gates={
            "watch": keras_comet.COMETGate(3),
            "rating": keras_comet.HashGate(3),
        },
        tasks=[
            keras_comet.Task("watch", "mse", activation="sigmoid"),
            keras_comet.Task("rating", "mse"),
        ],
        tower_units=[3],
    )


def make_inputs(num_rows, **changes):
    inputs = {
        "user": np.resize(np.array(["ann", "zoë", "nobody"]), num_rows),
        "item": np.resize(np.array(ITEMS), num_rows),
        "year": np.resize(np.array([1991, 7, -(2**40)]), num_rows),
        "dense": rows(num_rows, 3),
        **changes,
    }
    return {name: each for name, each in inputs.items() if each is not None}


def one_user(num_rows):
    """The films, for one user."""
    inputs = make_inputs(num_rows)
    return {
        name: values if name == "item" else np.repeat(values[:1], num_rows, 0)
        for name, values in inputs.items()
    }


ANSWERED = {
    "rows": make_inputs(12),
    "row": make_inputs(1),
    "films": one_user(len(ITEMS)),
    "no text": make_inputs(
        4, user=np.array([b"\xff\xfe", b"", b"ann\x80", b"nobody"], object)
    ),
    "none": make_inputs(0),
}
# What is wrong with a request -> the request, and what the error names.
MALFORMED = {
    "text for integers": (make_inputs(4, user=np.arange(4)), "string"),
    "integers for floats": (
        make_inputs(4, dense=np.zeros([4, 3], "int64")),
        "float",
    ),
    "rank too low": (make_inputs(4, dense=rows(4)), "requested shape"),
    "too few columns": (make_inputs(4, dense=rows(4, 2)), "requested shape"),
    "rank too high": (
        make_inputs(4, user=np.array([["ann", "bob"]] * 4)),
        "requested shape",
    ),
    "other number of rows": (make_inputs(4, user=np.array(["ann"])), "shape"),
    "missing input": (make_inputs(4, user=None), "user"),
    "unknown input": (make_inputs(4, age=np.arange(4)), "no such input"),
}


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """Answers of one process to all requests, and those of Keras."""
    directory = tmp_path_factory.mktemp("serving")
    keras.utils.set_random_seed(0)
    model = make_model()
    path = directory / "recommender" / "1"
    keras_comet.export_saved_model(model, path)
    program = c_server.compile_server(directory)
    requests = {
        **{name: inputs for name, (inputs, _) in MALFORMED.items()},
        **ANSWERED,
    }
    arguments = []
    for name, inputs in requests.items():
        arguments += c_server.write_request(inputs, directory / name)
        arguments.append("--")
    finished = subprocess.run(
        [str(program), str(path), *arguments], stdout=subprocess.PIPE
    )
    # Not ended by a signal.
    assert finished.returncode == 1
    served = finished.stdout.decode().split("request\n")[1:]
    timed = subprocess.run(
        [str(program), "-r", "3", str(path)]
        + c_server.write_request(ANSWERED["row"], directory / "row"),
        stdout=subprocess.PIPE,
        check=True,
    )
    return (
        dict(zip(requests, served, strict=True)),
        {
            name: model(tf.nest.map_structure(tf.constant, inputs))
            for name, inputs in ANSWERED.items()
        },
        timed.stdout.decode(),
    )


def read_outputs(answer):
    outputs = collections.defaultdict(list)
    for line in answer.splitlines():
        name, *values = line.split(",")
        outputs[name].append([float(value) for value in values])
    return outputs


@pytest.mark.parametrize("name", [name for name in ANSWERED if name != "none"])
def test_scores_equal_those_of_keras(answers, name):
    served = read_outputs(answers[0][name])
    expected = answers[1][name]
    assert set(served) == set(expected) == {"watch", "rating"}
    for task, values in expected.items():
        np.testing.assert_allclose(served[task], values, atol=1e-5)


def test_best_films_of_a_user_come_in_the_order_of_keras(answers):
    served = read_outputs(answers[0]["films"])
    best, best_of_keras = (
        [ITEMS[row] for row in np.argsort(-np.asarray(scores)[:, 0])[:10]]
        for scores in (served["watch"], answers[1]["films"]["watch"])
    )
    assert best == best_of_keras != ITEMS[:10]


def test_bytes_that_are_no_text_are_an_unknown_id(answers):
    scores = read_outputs(answers[0]["no text"])["watch"]
    assert len(scores) == 4
    inputs = ANSWERED["no text"]
    for first, second in itertools.combinations(range(4), 2):
        same = all(
            np.array_equal(inputs[name][first], inputs[name][second])
            for name in ("item", "year", "dense")
        )
        assert (scores[first] == scores[second]) == same


def test_no_rows_are_no_scores(answers):
    assert answers[0]["none"] == ""


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_request_is_an_error_that_says_why(answers, name):
    answer = answers[0][name]
    assert answer.startswith("error,")
    assert answer.count("\n") == 1
    assert MALFORMED[name][1] in answer


def test_requests_are_timed(answers):
    title, *seconds = answers[2].split()
    assert title == "request"
    assert len(seconds) == 3
    assert all(0.0 < float(each) < 10.0 for each in seconds)

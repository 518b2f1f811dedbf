"""The tables of promises and limits in the README name real tests."""

import ast
import pathlib
import re

import pytest

from keras_comet import testing
from tests.conftest import KERAS_3_ONLY
from tests.helpers import ROOT

TABLE = pathlib.Path(__file__).with_name("README.md").read_text()
PROMISES = re.findall(r"^\| (\d+) \| (.+?) \| (.+) \| .+ \|$", TABLE, re.M)
LIMITS = re.findall(
    r"^\| (.+?) \| (?:2|3|2 and 3) \| .+ \| (.+) \|$", TABLE, re.M
)
NUM_GUARANTEES = 10


def test_every_guarantee_has_a_test():
    assert LIMITS
    numbers = [int(number) for number, _, _ in PROMISES]
    assert sorted(set(numbers)) == list(range(1, NUM_GUARANTEES + 1))
    assert numbers == sorted(numbers)


@pytest.mark.parametrize(
    ("promise", "tests"),
    [*((promise, tests) for _, promise, tests in PROMISES), *LIMITS],
)
def test_named_tests_exist(promise, tests):
    names = re.findall(r"`([^`]+)::(\w+)`", tests)
    assert names
    for path, name in names:
        tree = ast.parse((ROOT / path).read_text())
        defined = [e.name for e in tree.body if isinstance(e, ast.FunctionDef)]
        assert name in defined, path
    for check in re.findall(r"`(check_\w+)`", tests):
        assert check in testing.__all__


def test_contributing_names_what_runs_in_one_keras():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    section = text.split("## What runs in one Keras only")[1].split("##")[0]
    named = re.findall(r"`tests/([^`]+)`", section)
    assert sorted(named) == sorted(KERAS_3_ONLY)
    assert all((ROOT / "tests" / name).exists() for name in named)

"""Every fenced example in docstrings, README and documentation runs."""

import pathlib
import re
import textwrap

import pytest

import keras_comet
from tests.helpers import run_script

PACKAGE = pathlib.Path(keras_comet.__file__).parent
DOCS = PACKAGE.parent / "docs"
# Guides whose blocks go on from one to the next.
PROGRAMS = [
    DOCS / "guides" / "features.md",
    DOCS / "guides" / "your_own_data.md",
]
KERAS_2_PROGRAM = DOCS / "guides" / "tensorflow_recommenders.md"
DOCUMENTS = [
    *sorted(PACKAGE.rglob("*.py")),
    PACKAGE.parent / "README.md",
    *sorted({*DOCS.rglob("*.md")} - {*PROGRAMS, KERAS_2_PROGRAM}),
]
DOWNLOADED = ["census_income", "image_domains", "movielens_100k", "multi_mnist"]
_BLOCK = re.compile(r"^([ ]*)```python\n(.*?)^\1```", re.S | re.M)


def examples():
    for path in DOCUMENTS:
        blocks = _BLOCK.findall(path.read_text())
        for index, (_, block) in enumerate(blocks):
            name = f"{path.relative_to(PACKAGE.parent)}-{index}"
            yield pytest.param(textwrap.dedent(block), id=name)


@pytest.mark.slow
@pytest.mark.parametrize("example", list(examples()))
def test_example_runs(example, tmp_path, monkeypatch):
    # What an example writes is not for the repository.
    monkeypatch.chdir(tmp_path)
    loaders = [f"{name}(" for name in DOWNLOADED]
    if any(loader in example for loader in loaders):
        # Downloads: checked for syntax alone.
        compile(example, "example", "exec")
    else:
        exec(compile(example, "example", "exec"), {})


@pytest.mark.slow
@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.name)
def test_guide_runs_from_its_beginning_to_its_end(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(program(path), path.name, "exec"), {})


@pytest.mark.slow
def test_guide_for_keras_2_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = run_script(program(KERAS_2_PROGRAM), TF_USE_LEGACY_KERAS="1")
    assert run.returncode == 0, run.stderr


def program(path):
    return "\n".join(block for _, block in _BLOCK.findall(path.read_text()))

"""Notebooks are what is made of their scripts, and run."""

import os
import pathlib
import subprocess
import sys

import pytest

nbformat = pytest.importorskip("nbformat", reason="the extra `notebooks`")
nbclient = pytest.importorskip("nbclient", reason="the extra `notebooks`")
pytest.importorskip("jupytext", reason="the extra `notebooks`")

ROOT = pathlib.Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
NOTEBOOKS = ["first_model.ipynb", "watching_gates.ipynb"]


def test_notebooks_are_what_their_scripts_say(tmp_path):
    subprocess.run(
        [sys.executable, ROOT / ".ci" / "notebooks.py", tmp_path], check=True
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == NOTEBOOKS
    for name in NOTEBOOKS:
        made = (tmp_path / name).read_text()
        assert (EXAMPLES / name).read_text() == made, "run `make notebooks`"


@pytest.mark.slow
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebook_runs_and_shows_results(name, tmp_path, monkeypatch):
    path = os.pathsep.join([str(EXAMPLES), str(ROOT)])
    monkeypatch.setenv("PYTHONPATH", path)
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "3")
    notebook = nbformat.read(EXAMPLES / name, as_version=4)
    nbclient.NotebookClient(
        notebook,
        timeout=600,
        startup_timeout=300,
        resources={"metadata": {"path": tmp_path}},
    ).execute()
    outputs = [
        output for cell in notebook.cells for output in cell.get("outputs", ())
    ]
    printed = "".join(output.get("text", "") for output in outputs)
    assert "Where to look: runs/" in printed
    assert "| gate | as it is |" in printed
    assert not [output for output in outputs if output.get("name") == "stderr"]
    pictures = [o for o in outputs if "image/png" in o.get("data", {})]
    assert len(pictures) == {"watching_gates.ipynb": 5}.get(name, 0)

"""Writes the notebooks whose source is a script, without outputs.

    python .ci/notebooks.py DIRECTORY

Writes an .ipynb file into the directory for each script of examples/ with
cells in the percent format of jupytext, the same bytes every time.
"""

import pathlib
import sys

import jupytext

EXAMPLES = pathlib.Path(__file__).parents[1] / "examples"
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def convert(script: str) -> str:
    """Returns the notebook of a script."""
    notebook = jupytext.reads(script, fmt="py:percent")
    notebook.metadata = {"kernelspec": KERNEL}
    for number, cell in enumerate(notebook.cells):
        # At random otherwise.
        cell.id = str(number)
    return jupytext.writes(notebook, fmt="ipynb")


def main() -> None:
    """Converts what is a notebook."""
    directory = pathlib.Path(sys.argv[1])
    for path in sorted(EXAMPLES.glob("*.py")):
        script = path.read_text()
        if script.startswith("# %%"):
            (directory / f"{path.stem}.ipynb").write_text(convert(script))


if __name__ == "__main__":
    main()

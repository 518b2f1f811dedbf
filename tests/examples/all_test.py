"""What all programs in examples/ have in common."""

import ast
import pathlib

import pytest

EXAMPLES = pathlib.Path(__file__).parents[2] / "examples"
PROGRAMS = [
    path
    for path in sorted(EXAMPLES.glob("*.py"))
    if '__name__ == "__main__"' in path.read_text()
    or path.read_text().startswith("# %%")
]
LOUD = ("tensorflow", "keras", "tf_keras", "keras_comet", "movielens_model")


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.name)
def test_program_is_quiet_and_says_where_to_look(path):
    assert len(PROGRAMS) >= 8
    imported = [
        name
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in [getattr(node, "module", None), node.names[0].name]
        if name
    ]
    loud = [name for name in imported if name.startswith(LOUD)]
    assert imported.index("quiet_tensorflow") < imported.index(loud[0])
    # serve.py is a part of others, and writes what it is told to.
    assert "Where to look" in path.read_text() or path.name == "serve.py"

"""The rules that the source follows, read from the source."""

import ast
import inspect
import pathlib
import re

import pytest

import keras_comet

PACKAGE = pathlib.Path(keras_comet.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))

# What each folder may import of the package, besides itself and _keras.
ALLOWED = {
    "ops": set(),
    "regularizers": {"ops"},
    "metrics": {"ops"},
    "datasets": set(),
    "containers": set(),
    "gates": {"ops", "regularizers", "containers"},
    "layers": {"ops", "regularizers", "gates", "containers"},
    "models": {"ops", "gates", "layers", "containers"},
    "search": {
        "ops",
        "metrics",
        "gates.expert_permutation",
        "models.compiled_loss",
    },
    "training": {
        "models.compiled_loss",
        "models.several_workers",
        "models.update",
        "search",
        "callbacks",
    },
    "export": {"gates", "layers"},
    "analysis": {"gates", "layers", "models.compiled_loss"},
    "callbacks": {
        "analysis",
        "metrics",
        "search",
        "gates.base",
        "gates.capture",
        "gates.smooth_step_gate",
        "layers.multi_gate_mixture_of_experts",
    },
    "testing": {"gates.base", "gates.expert_permutation"},
    "tuning": {"analysis.figures"},
}


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module
            if node.module == "keras_comet":
                yield from (f"keras_comet.{each.name}" for each in node.names)
        elif isinstance(node, ast.Import):
            yield from (each.name for each in node.names)


@pytest.mark.parametrize(
    "path", FILES, ids=lambda p: str(p.relative_to(PACKAGE))
)
def test_imports_point_one_way(path):
    folder = path.relative_to(PACKAGE).parts[0]
    for module in imports(path):
        private = ("tensorflow.python", "keras.src", "tf_keras.src")
        assert not module.startswith(private), module
        if folder not in ALLOWED or not module.startswith("keras_comet."):
            continue
        target = module.removeprefix("keras_comet.")
        if target.split(".")[0] in {folder, "_keras"}:
            continue
        assert any(
            target == each or target.startswith(f"{each}.")
            for each in ALLOWED[folder]
        ), f"{path.name} imports {module}"


def test_every_folder_has_a_rule():
    folders = {
        p.name for p in PACKAGE.iterdir() if (p / "__init__.py").exists()
    }
    assert folders == set(ALLOWED)


@pytest.mark.parametrize(
    "path", FILES, ids=lambda p: str(p.relative_to(PACKAGE))
)
def test_no_host_call_no_assert_and_one_place_that_asks(path):
    text = path.read_text()
    assert not re.search(r"\b(numpy_function|py_function)\b", text)
    assert not any(
        isinstance(node, ast.Assert) for node in ast.walk(ast.parse(text))
    )
    if path.name != "_keras.py":
        assert "TF_USE_LEGACY_KERAS" not in text


@pytest.mark.parametrize(
    "path", FILES, ids=lambda p: str(p.relative_to(PACKAGE))
)
def test_nothing_that_runs_what_a_file_says(path):
    forbidden = {
        "pickle",
        "cPickle",
        "dill",
        "cloudpickle",
        "marshal",
        "shelve",
    }
    assert not forbidden & {module.split(".")[0] for module in imports(path)}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called not in {"eval", "exec", "compile", "__import__"}
            assert "unsafe_deserialization" not in called
        if isinstance(node, ast.keyword) and node.arg in (
            "allow_pickle",
            "safe_mode",
        ):
            # False refuses pickles, and only True refuses code.
            assert ast.unparse(node.value) == str(node.arg == "safe_mode")


def public_classes():
    return [
        value
        for name in keras_comet.__all__
        if inspect.isclass(value := getattr(keras_comet, name))
    ]


@pytest.mark.parametrize("public", public_classes(), ids=lambda c: c.__name__)
def test_documented_defaults_equal_the_signature(public):
    text = inspect.getdoc(public).split("Args:", 1)[-1]
    text = re.split(r"\n(?:Attributes|Call arguments|Raises|Example):", text)[0]
    parameters = inspect.signature(public).parameters
    entries = re.split(r"\n    (?=\*{0,2}\w+: )", text)
    documented = {}
    for entry in entries:
        name = entry.strip().split(":")[0]
        found = re.search(r"Defaults\s+to\s+`([^`]*)`", entry)
        if found:
            documented[name] = ast.literal_eval(found.group(1))
    for name, default in documented.items():
        assert parameters[name].default == default, name
    missing = [
        name
        for name, parameter in parameters.items()
        if parameter.kind is not parameter.VAR_KEYWORD
        and not any(entry.strip().startswith(f"{name}:") for entry in entries)
    ]
    assert not missing

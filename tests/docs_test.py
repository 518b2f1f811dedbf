"""The site and the front page lead where they say, without TensorFlow."""

import ast
import configparser
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
TEXTS = [*ROOT.glob("*.md"), *PAGES]
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
_CODE = re.compile(r"^([ ]*)```.*?^\1```|`[^`\n]+`", re.S | re.M)
# Parts of the public API that are not imported from keras_comet itself.
_ELSEWHERE = {
    "analysis.AblationReport",
    "analysis.ExpertSimilarity",
    "gates.LinearGate",
    "testing",
}


def assigned(path, name):
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Assign) and node.targets[0].id == name:
            return ast.literal_eval(node.value)
    raise LookupError(name)


def navigation():
    text = (ROOT / "mkdocs.yml").read_text().split("\nnav:\n")[1]
    return re.findall(r"(?:: |- )([\w./]+\.md)$", text, re.M)


def test_every_public_name_has_a_page():
    names = assigned(ROOT / "keras_comet" / "__init__.py", "__all__")
    pages = [path for path in navigation() if path.startswith("api/")]
    expected = [f"api/{name}.md" for name in {*names, *_ELSEWHERE, "index"}]
    assert sorted(pages) == sorted(expected)


def test_navigation_and_pages_are_the_same():
    pages = [str(path.relative_to(DOCS)) for path in PAGES]
    written = [path for path in navigation() if not path.startswith("api/")]
    assert sorted(written) == pages


@pytest.mark.parametrize("path", TEXTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_relative_links_lead_somewhere(path):
    api = {DOCS / page for page in navigation() if page.startswith("api/")}
    for link in _LINK.findall(_CODE.sub("", path.read_text())):
        target = link.split("#")[0]
        if not target or re.match(r"\w+:", target):
            continue
        place = (path.parent / target).resolve()
        assert place.exists() or place in api, f"{path.name}: {link}"


@pytest.mark.parametrize("path", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_texts_that_a_page_takes_over_exist(path):
    for source in re.findall(r'^--8<-- "([^"]+)"$', path.read_text(), re.M):
        name, _, section = source.partition(":")
        text = (ROOT / name).read_text()
        assert not section or f"[start:{section}]" in text, source


def test_every_guide_is_on_the_front_page():
    links = _LINK.findall((ROOT / "README.md").read_text())
    guides = {
        f"docs/{p.relative_to(DOCS)}" for p in PAGES if "guides" in str(p)
    }
    assert guides <= set(links)


def test_functions_that_the_design_names_exist():
    design = (DOCS / "design.md").read_text()
    named = set(re.findall(r"`([a-z]+)\.(\w+)(?:\.(\w+))?[`(]", design))
    assert len(named) > 20
    for folder, name, method in named:
        files = (ROOT / "keras_comet" / folder).glob("*.py")
        text = "\n".join(path.read_text() for path in files)
        for each in filter(None, (name, method)):
            assert re.search(rf"(def|class) {each}\b", text), (folder, each)


def test_version_is_the_same_in_the_citation_the_changelog_and_the_readme():
    version = assigned(ROOT / "keras_comet" / "_version.py", "__version__")
    newest = re.search(
        r"^## (\d\S*) \((\d{4}-\d\d-\d\d)\)$",
        (ROOT / "CHANGELOG.md").read_text(),
        re.M,
    )
    citation = (ROOT / "CITATION.cff").read_text()
    assert newest[1] == version
    assert f"\nversion: {version}\ndate-released: {newest[2]}\n" in citation
    assert f"\n**{version}** · " in (ROOT / "README.md").read_text()


def test_pages_and_theme_load_nothing_from_elsewhere():
    settings = (ROOT / "mkdocs.yml").read_text()
    assert "\n  font: false\n" in settings
    assert "http" not in settings
    for path in DOCS.rglob("*.svg"):
        text = path.read_text().replace("http://www.w3.org/2000/svg", "")
        assert "http" not in text, path.name


def test_versions_it_runs_on_are_the_same_in_page_metadata_and_readme():
    rows = re.findall(
        r"^\| [\w ]+ \| (?:(tf_keras) )?([\d.]+) to ([\d.]+)",
        (DOCS / "compatibility.md").read_text(),
        re.M,
    )
    (_, *python), (_, *tensorflow), (_, *keras), (_, *tf_keras) = rows
    newest = assigned(ROOT / "keras_comet" / "_versions.py", "NEWEST_TESTED")
    assert newest == {
        "tensorflow": tensorflow[1],
        "keras": keras[1],
        "tf_keras": tf_keras[1],
    }
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    options, extras = setup["options"], setup["options.extras_require"]
    required = options["install_requires"].split()
    assert f"tensorflow>={tensorflow[0]}" in required
    assert f"keras>={keras[0]}" in required
    assert f"tf_keras>={tf_keras[0]}" in extras["recommenders"].split()
    assert options["python_requires"] == f">={python[0]}"
    readme = (ROOT / "README.md").read_text()
    for oldest, newest in (python, tensorflow, keras):
        assert f"{oldest} to {newest}" in readme
    listed = re.findall(r"3\.\d+", setup["metadata"]["classifiers"])
    assert [listed[0], listed[-1]] == python

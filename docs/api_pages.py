"""Hook of MkDocs: writes the pages below api/ that its navigation names.

`api/COMETGate.md` is the page of `keras_comet.COMETGate`, and
`api/gates.LinearGate.md` that of `keras_comet.gates.LinearGate`. The text is
that of the docstrings, read without importing the package.
"""

import pathlib
import sys
from collections.abc import Iterator
from typing import Any

import griffe
from mkdocs.structure.files import File

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from docstring_sections import link_names

ROOT = pathlib.Path(__file__).parent.parent
EXTENSION = str(ROOT / "docs" / "docstring_sections.py")

_INTRODUCTION = """# API

Everything is imported from `keras_comet`; a name with a dot from that part of
the package. What is not listed here is private and may change at any time: see
[Compatibility](../compatibility.md).
"""


def api_section(nav: list[Any]) -> list[Any]:
    """Returns the part of the navigation that is about the API."""
    return next(each["API"] for each in nav if "API" in each)


def groups(nav: list[Any]) -> Iterator[tuple[str, list[str]]]:
    """Yields the groups of the API and the pages that each one has."""
    for entry in api_section(nav):
        if isinstance(entry, dict):
            for title, pages in entry.items():
                yield title, [path for page in pages for path in page.values()]


def page_name(path: str) -> str:
    """Returns the public name that a page is about."""
    return path.removeprefix("api/").removesuffix(".md")


def on_files(files: Any, config: Any) -> Any:
    """Adds the pages of the API to those that are files."""
    package = griffe.load(
        "keras_comet",
        search_paths=[ROOT],
        allow_inspection=False,
        resolve_aliases=True,
        extensions=griffe.load_extensions(EXTENSION),
    )
    index = [_INTRODUCTION]
    for title, pages in groups(config.nav):
        index += [f"## {title}\n", "| name | |\n|---|---|"]
        for path in pages:
            name = page_name(path)
            public = package[name]
            content = _page(name, public)
            files.append(File.generated(config, path, content=content))
            index.append(f"| [`{name}`]({name}.md) | {_first_line(public)} |")
        index.append("")
    files.append(
        File.generated(config, "api/index.md", content="\n".join(index))
    )
    return files


def on_page_markdown(markdown: str, page: Any, **kwargs: Any) -> str:
    """Links public names in the text of guides."""
    return markdown if "api/" in page.url else link_names(markdown)


def _page(name: str, public: Any) -> str:
    lines = [f"::: keras_comet.{name}"]
    if public.is_module:
        # What the module exports comes from the files below it.
        members = ", ".join(map(str, public.exports))
        lines += ["    options:", f"      members: [{members}]"]
    elif public.is_attribute:
        lines += ["    options:", "      show_if_no_docstring: true"]
    return "\n".join(lines)


def _first_line(public: Any) -> str:
    if public.docstring is None:
        return "The version of the package."
    line = public.docstring.value.partition("\n")[0]
    # A pipe would end the cell.
    return line.replace("|", r"\|")

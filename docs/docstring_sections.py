"""Extension of griffe: sections of Keras docstrings, and links between names.

Keras has sections that Google's style does not know, such as "Call arguments".
They become bold lines with lists. A public name in code font becomes a link to
its page.
"""

import ast
import pathlib
import re
import textwrap
from typing import Any

import griffe

PACKAGE = pathlib.Path(__file__).parent.parent / "keras_comet"

_SECTIONS = (
    "Reference",
    "Call arguments",
    "Input shape",
    "Output shape",
    "Example",
)
_SECTION = re.compile(
    rf"^({'|'.join(_SECTIONS)}):\n((?:[ ]+.*\n|- .*\n|\n)*)", re.M
)
_ENTRY = re.compile(r"^(\w+): ", re.M)


def public_names() -> list[str]:
    """Reads `keras_comet.__all__` without importing it."""
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    for node in tree.body:
        if isinstance(node, ast.Assign) and node.targets[0].id == "__all__":
            return ast.literal_eval(node.value)
    raise LookupError("__all__")


_NAMES = [name for name in public_names() if name != "__version__"]
_NAME = re.compile(rf"(?<![\[`\w.])`({'|'.join(_NAMES)})`(?![`\]])")
_FENCE = re.compile(r"(^```.*?^```$)", re.M | re.S)


class KerasDocstrings(griffe.Extension):
    """Rewrites docstrings before they are parsed."""

    def on_package(self, *, pkg: Any, **kwargs: Any) -> None:
        """Prefers functions to the files of the same name they come from."""
        for folder in [pkg, *pkg.modules.values()]:
            for name in map(str, folder.exports or ()):
                member = folder.members[name]
                if isinstance(member, griffe.Module) and name in member.members:
                    folder.set_member(name, member[name])

    def on_object(self, *, obj: Any, **kwargs: Any) -> None:
        """Rewrites the docstring of one object, if it has one."""
        if not obj.is_alias and obj.docstring is not None:
            obj.docstring.value = rewrite(obj.docstring.value, obj.name)


def rewrite(text: str, name: str) -> str:
    """Turns a Keras docstring into one of Google's style.

    Args:
        text: str. The docstring, dedented.
        name: str. What it is about, which it is not linked to.

    Returns:
        The new docstring.
    """
    text = _SECTION.sub(_spell_section, f"{text}\n")
    return link_names(text, name).rstrip()


def link_names(text: str, own_name: str = "") -> str:
    """Links public names in code font to their pages, but for one."""
    parts = _FENCE.split(text)
    # Fences are the odd parts.
    parts[::2] = [_NAME.sub(_linker(own_name), part) for part in parts[::2]]
    return "".join(parts)


def _spell_section(found: re.Match[str]) -> str:
    title, body = found.groups()
    body = textwrap.dedent(body).strip("\n")
    if title == "Call arguments":
        body = "\n".join(
            f"- {line}" if _ENTRY.match(line) else f"  {line.strip()}"
            for line in body.splitlines()
        )
        body = re.sub(r"^- (\w+): ", r"- **`\1`**: ", body, flags=re.M)
    return f"**{title}:**\n\n{body}\n\n"


def _linker(own_name: str) -> Any:
    def link(found: re.Match[str]) -> str:
        name = found.group(1)
        if name == own_name:
            return found.group(0)
        return f"[`{name}`][keras_comet.{name}]"

    return link

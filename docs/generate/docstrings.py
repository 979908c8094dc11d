"""Docstrings as this project writes them, made ready for the site; files are never touched.

Names in backticks become links, arguments that share a description get one each, a double colon before a block of code
becomes a single one, and the members of an enumeration are told by their values.
"""

import ast
import re
from collections.abc import Iterator
from typing import Any

import griffe

_GROUP = re.compile(r"^( {4,})(\w+(?:, \w+)+): (.*(?:\n\1 +.*)*)", re.MULTILINE)
_LITERAL = re.compile(r"::$", re.MULTILINE)
_NAME = re.compile(r"(?<![`\w\[])`([A-Za-z_][\w.]*)(\(\))?`(?![`\]])")


class Docstrings(griffe.Extension):
    """Rewrites the docstrings of a package once all of it is loaded."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Griffe calls it."""
        for obj in _objects(pkg):
            if isinstance(obj, griffe.Class) and "Enum" in map(str, obj.bases):
                _say_values(obj)
            if obj.docstring is not None:
                obj.docstring.value = _linked(_separated(obj.docstring.value), obj)


def _objects(obj: griffe.Object) -> Iterator[griffe.Object]:
    yield obj
    for member in obj.members.values():
        if isinstance(member, griffe.Object):
            yield from _objects(member)


def _say_values(enum: griffe.Class) -> None:
    """The members of this project's enumerations have sentences for values: those are their documentation."""
    for member in enum.attributes.values():
        if member.docstring is None and isinstance(member.value, str):
            value = ast.literal_eval(member.value)
            member.docstring = griffe.Docstring(value if isinstance(value, str) else repr(value), parent=member)


def _separated(text: str) -> str:
    def each(match: re.Match[str]) -> str:
        return "\n".join(f"{match[1]}{name}: {match[3]}" for name in match[2].split(", "))

    return _LITERAL.sub(":", _GROUP.sub(each, text))


def _linked(text: str, obj: griffe.Object) -> str:
    """A link where a name means something from where ``obj`` stands, and has a place in the reference."""

    def link(match: re.Match[str]) -> str:
        first, _, rest = match[1].partition(".")
        try:
            path = obj.resolve(first)
        except griffe.NameResolutionError:
            return match[0]
        identifier = f"{path}.{rest}" if rest else path
        return f'<autoref optional identifier="{identifier}"><code>{match[1]}{match[2] or ""}</code></autoref>'

    return _NAME.sub(link, text)

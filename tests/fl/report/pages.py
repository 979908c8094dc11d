"""A page parsed strictly, unlike in a browser."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import safetensors
import safetensors.torch

_VOID = {"meta", "link", "br", "img", "input", "hr"}


@dataclass
class Element:
    """One element: its name, attributes, children in order (elements and texts)."""

    name: str
    attributes: dict[str, str]
    children: list[Element | str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """Return all text in it, with single spaces."""
        parts = [child if isinstance(child, str) else child.text for child in self.children]
        return " ".join(" ".join(parts).split())

    def all(self, name: str, **attributes: str) -> list[Element]:
        """Return every element of that name in it, in order; `of_class` looks for one of its classes."""
        wanted = attributes.pop("of_class", None)
        found = []
        for child in self.children:
            if isinstance(child, str):
                continue
            is_wanted = wanted is None or wanted in child.attributes.get("class", "").split()
            if child.name == name and is_wanted and attributes.items() <= child.attributes.items():
                found.append(child)
            found.extend(child.all(name, **attributes, **({} if wanted is None else {"of_class": wanted})))
        return found

    def one(self, name: str, **attributes: str) -> Element:
        """Return the only element of that name."""
        (found,) = self.all(name, **attributes)
        return found


class _Strict(HTMLParser):
    """A parser that builds the tree, and refuses a tag that closes another one."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Element("page", {})
        self._open = [self.root]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(set(names)) == len(names), f"an attribute twice: {attrs}"
        element = Element(tag, {name: value or "" for name, value in attrs})
        self._open[-1].children.append(element)
        if tag not in _VOID:
            self._open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in _VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open[-1].name == tag, f"</{tag}> closes <{self._open[-1].name}>"
        self._open.pop()

    def handle_data(self, data: str) -> None:
        self._open[-1].children.append(data)

    def close(self) -> None:
        super().close()
        assert self._open == [self.root], f"never closed: {self._open[1:]}"


def parse(page: bytes | Path) -> Element:
    """Return the page's tree."""
    parser = _Strict()
    parser.feed((page.read_bytes() if isinstance(page, Path) else page).decode())
    parser.close()
    return parser.root


def table(page: Element, label: str) -> list[list[str]]:
    """Return the rows, as text, of the table in the region of that name; its heads come first."""
    rows = page.one("div", **{"aria-label": label}).one("table").all("tr")
    return [[cell.text for cell in row.children if isinstance(cell, Element)] for row in rows]


def pixels_of(image: Element) -> np.ndarray:
    """Return the pixels of an image in a data URL, 0..1."""
    head, data = image.attributes["src"].split(",")
    assert head == "data:image/png;base64"
    return np.asarray(matplotlib.image.imread(io.BytesIO(base64.b64decode(data, validate=True)), format="png"))


def rewrite_checkpoint(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Store the checkpoint again with its metadata (config, rounds_done, records; as values) changed."""
    path = folder / "checkpoint.safetensors"
    with safetensors.safe_open(path, framework="pt") as file:
        metadata = {name: json.loads(value) for name, value in file.metadata().items()}
    tensors = safetensors.torch.load_file(path)
    change(metadata)
    stored = {name: json.dumps(value) for name, value in metadata.items()}
    path.write_bytes(safetensors.torch.save(tensors, stored))

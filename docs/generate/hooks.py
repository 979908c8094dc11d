"""The site's hooks into mkdocs: pages for files outside `docs/`, the reference of `fl`, a navigation of what is there.

The documentation is read in two places: where the repository is hosted, and as a site. Links are written for the first,
and work in the second too: what a page links to outside `docs/` becomes a page, and so does what that page links to.
"""

import posixpath
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

from markdown import Markdown
from markdown.extensions import Extension
from markdown.treeprocessors import Treeprocessor
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
DOCS = "docs/"

# The README is for the code host; the site begins with a page of its own.
SITE_NAMES = {"README.md": "index.md"}

LANGUAGES = {".py": "python", ".json": "json", ".toml": "toml", ".yml": "yaml", ".yaml": "yaml", ".sh": "console"}

# What a program may use of `fl`: modules, or packages, of which all modules are meant. Those that are there get a page.
FL_PAGES = {
    "Data": ("fl.data", "fl.data.partition"),
    "Models and training": (
        "fl.learning.models",
        "fl.learning.own_code",
        "fl.learning.training",
        "fl.learning.parameter_layout",
        "fl.engines.local_worker",
    ),
    "Rounds": (
        "fl.config.run_config",
        "fl.runs.rounds",
        "fl.runs.run",
        "fl.runs.records",
        "fl.learning.server_optimizer",
        "fl.aggregation.held_out",
        "fl.runs.checkpoint",
    ),
    "Aggregation": (
        "fl.aggregation.api",
        "fl.aggregation.secure",
        "fl.aggregation.planning",
        "fl.aggregation.encoding",
        "fl.aggregation.scales",
        "fl.learning.cpu",
    ),
    "Network": ("fl.network", "fl.watch"),
    "Personalization": ("fl.personalization",),
    "Encrypted prediction": ("fl.encrypted",),
    "Engines": ("fl.engines",),
    "Integrations": ("fl.integrations",),
}


def site_path(repository_path: str) -> str:
    """Where a file of the repository is on the site, before it becomes HTML: code files become pages."""
    if repository_path.startswith(DOCS):
        return repository_path.removeprefix(DOCS)
    name = SITE_NAMES.get(repository_path, repository_path)
    return name if name.endswith(".md") else f"{name}.md"


def repository_path(site_path: str) -> str:
    """The file of the repository that a page was made of."""
    return DOCS + site_path if (ROOT / DOCS / site_path).is_file() else site_path


def link_target(source: str, url: str) -> str | None:
    """The file of the repository that a link in ``source`` leads to; a folder's is its README, be there one or not."""
    parts = urlsplit(url)
    if parts.scheme or parts.netloc or not parts.path or parts.path.startswith("/"):
        return None
    target = posixpath.normpath(posixpath.join(posixpath.dirname(source), unquote(parts.path)))
    if (ROOT / target).is_dir():
        return posixpath.join(target, "README.md")
    return target if (ROOT / target).is_file() else None


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Puts the links' translation into every page's Markdown."""
    config.markdown_extensions.append(_LINKS)  # type: ignore[arg-type] - mkdocs' own plugins do it like this
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages for what is linked to, and the reference's pages; then makes the navigation."""
    linked = [DOCS + file.src_uri for file in files.documentation_pages()] + list(_named_in(config.nav))
    seen = set(linked)
    while linked:
        source = linked.pop()
        text = (ROOT / source).read_text() if (ROOT / source).is_file() else _listing(source)
        if not source.startswith(DOCS) and source not in SITE_NAMES:
            files.append(_page(config, site_path(source), text if source.endswith(".md") else _as_code(source, text)))
        if source.endswith(".md"):
            found = {link_target(source, url) for url in re.findall(r"\]\(([^)\s]+)\)", _without_code(text))}
            # What is in `docs/` is there already: all its pages are in the list, the rest is copied as it is.
            new = {target for target in found - seen if target and not target.startswith(DOCS)}
            seen |= new
            linked += sorted(new)
    for title, modules in FL_PAGES.items():
        if there := [module for name in modules for module in _modules(name)]:
            name = f"reference/fl-{title.lower().replace(' ', '-')}.md"
            files.append(_page(config, name, "\n\n".join([f"# fl: {title.lower()}", *map(_as_reference, there)])))
    config.nav = _navigation(config.nav, files)
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Tells the links' translation which page it is at."""
    _LINKS.source = repository_path(page.file.src_uri)
    return markdown


class _Links(Extension):
    """Links between files of the repository, as links between the site's sources. mkdocs checks them after that."""

    source = ""

    def extendMarkdown(self, md: Markdown) -> None:  # noqa: N802 - Markdown's name
        # Before mkdocs' own, which has priority 0.
        md.treeprocessors.register(_Translation(md, self), "repository_links", 1)


class _Translation(Treeprocessor):
    def __init__(self, md: Markdown, links: _Links) -> None:
        super().__init__(md)
        self._links = links

    def run(self, root: ElementTree.Element) -> None:
        source = self._links.source
        for element in root.iter():
            key = {"a": "href", "img": "src"}.get(element.tag, "")
            target = link_target(source, element.get(key, "")) if key else None
            if target is not None:
                path = posixpath.relpath(site_path(target), posixpath.dirname(site_path(source)) or ".")
                element.set(key, urlunsplit(urlsplit(element.get(key, ""))._replace(path=path)))


_LINKS = _Links()


def _page(config: MkDocsConfig, name: str, text: str) -> File:
    return File.generated(config, name, content=text)


def _listing(readme: str) -> str:
    """What stands in for the README of a folder that has none: its files, as the code host would show them."""
    folder = (ROOT / readme).parent
    files = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    shown = [path for path in files if not any(part[0] in "._" and part != "__init__.py" for part in path.parts)]
    return "\n".join([f"# {posixpath.dirname(readme)}", "", *(f"- [{path}]({path})" for path in shown)]) + "\n"


def _as_code(source: str, text: str) -> str:
    """A page that shows a file of code."""
    fence = "`" * (2 + max(map(len, re.findall(r"`+", text)), default=1))
    return f"# {source}\n\n{fence}{LANGUAGES.get(Path(source).suffix, 'text')}\n{text}{fence}\n"


def _as_reference(module: str) -> str:
    """A section with all that is public in a module."""
    return f"## {module}\n\n::: {module}\n    options: {{show_root_heading: false, show_root_toc_entry: false}}\n"


def _without_code(text: str) -> str:
    return re.sub(r"^```.*?^```|`[^`\n]*`", "", text, flags=re.MULTILINE | re.DOTALL)


def _modules(name: str) -> list[str]:
    """The module, if it is there; of a package that does not say itself what it exports, its modules."""
    path = ROOT / name.replace(".", "/")
    package = path / "__init__.py"
    if not path.is_dir():
        return [name] if path.with_suffix(".py").is_file() else []
    if not package.is_file():
        return []
    if "\n__all__ = " in package.read_text():
        return [name]
    children = sorted(child.stem for child in path.iterdir() if child.suffix == ".py" or child.is_dir())
    public = [child for child in children if child[0] != "_" and not child.endswith("_command")]
    return [module for child in public for module in _modules(f"{name}.{child}")]


def _named_in(nav: Any) -> Iterator[str]:
    """Files of the repository outside `docs/` that the navigation names."""
    if isinstance(nav, dict):
        nav = list(nav.values())
    if isinstance(nav, list):
        for entry in nav:
            yield from _named_in(entry)
    elif isinstance(nav, str) and not (ROOT / DOCS / nav).is_file() and (ROOT / nav).is_file():
        yield nav


def _navigation(nav: Any, files: Files) -> Any:
    """The navigation with what is there: missing files left out, patterns replaced."""
    there = sorted(file.src_uri for file in files.documentation_pages())
    named = {entry for entry in _entries(nav) if "*" not in entry}

    def resolve(node: Any) -> list[Any]:
        if isinstance(node, list):
            return [entry for child in node for entry in resolve(child)]
        if isinstance(node, dict):
            ((title, child),) = node.items()
            if isinstance(child, str) and "*" not in child:
                return [{title: child}] if child in there else []
            return [{title: resolved}] if (resolved := resolve(child)) else []
        if "*" not in node:
            return [node] if node in there else []
        folder = posixpath.dirname(node)
        return [path for path in there if posixpath.dirname(path) == folder and path not in named]

    resolved = resolve(nav)
    listed = set(_entries(resolved))
    for file in files.documentation_pages():
        # Whatever came along because a page links to it.
        if file.src_uri not in listed and not (ROOT / DOCS / file.src_uri).is_file():
            file.inclusion = InclusionLevel.NOT_IN_NAV
    return resolved


def _entries(nav: Any) -> Iterator[str]:
    if isinstance(nav, dict):
        nav = list(nav.values())
    if isinstance(nav, list):
        for entry in nav:
            yield from _entries(entry)
    elif isinstance(nav, str):
        yield nav
    else:
        raise PluginError(f"nav in mkdocs.yml takes files, titles with files, and lists of these, not {nav!r}")

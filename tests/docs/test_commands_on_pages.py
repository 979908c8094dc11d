"""Every `secagg` command on a page exists, with the options shown."""

import re
from pathlib import Path

import pytest
import typer

from fl.commands.app import app

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [ROOT / "README.md", ROOT / "deploy/README.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/*.md")]
)
COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]
# In a block, with lines continued after a backslash, or within a sentence.
LINE = re.compile(r"(?:^\$ |`)secagg ([a-z]+)\b((?:\\\n|[^\n`])*)", re.MULTILINE)


def options_of(name: str) -> set[str]:
    return {option for parameter in COMMANDS[name].params for option in parameter.opts} | {"--help"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_commands_have_their_options(page: Path) -> None:
    for name, rest in LINE.findall(page.read_text(encoding="utf-8")):
        words = re.findall(r"(?<!\S)--[a-z][a-z0-9-]*", rest.split("#")[0])
        assert name in COMMANDS, f"{page.name}: secagg {name}"
        assert set(words) <= options_of(name), f"{page.name}: secagg {name}{rest}"


def test_commands_are_found_and_wrong_ones_would_be_noticed() -> None:
    found = [name for page in PAGES for name, _ in LINE.findall(page.read_text(encoding="utf-8"))]
    assert len(found) > 40
    assert {"train", "serve", "join", "certs", "plan", "report"} <= set(found)
    assert LINE.findall("$ secagg serve --a \\\n    --b 1  # c\n") == [("serve", " --a \\\n    --b 1  # c")]
    assert "--no-such-option" not in options_of("train")

"""`python -m experiments.page`: write docs/experiments.md and its figures from experiments/results."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from experiments import fashion_six, mnist_hundred, private_users, writers
from experiments.section import Section
from fl.errors import ConfigError
from fl.experiments.results import Document, read_document

_SECTIONS: dict[str, Callable[[Document], Section]] = {
    "fashion-six": fashion_six.section,
    "mnist-hundred": mnist_hundred.section,
    "mnist-writers": writers.section,
    "private-users": private_users.section,
}

# Unfinished arms that are named, not counted.
_MOST_NAMED = 12

_HEAD = """# Experiments

Each command compares whole training runs; interrupted, it resumes to the same bits. `--quick` runs the same arms on
scikit-learn's digits in seconds. Data sets are found as for `secagg train`. Accuracies are on images that nobody
trained on. Seconds are of one arm's rounds on one core, without tests, while other arms ran on the other cores.

`make experiments-page` makes this page from `experiments/results`, which the commands wrote (`--results`) and
`python -m experiments.summary` shortened. Each result has the trained model's digest: such a machine gives the same
again.
"""


def page(results: dict[str, Document]) -> tuple[str, dict[str, Section]]:
    """Return the page as Markdown, and each experiment's part of it, from the results by the experiment's name."""
    parts, sections = [_HEAD], {}
    for name, section in _SECTIONS.items():
        document = results.get(name)
        if document is None:
            parts.append(f"## {name}\n\nNo results are kept yet: `secagg experiment {name}` makes them.\n")
            continue
        sections[name] = section(document)
        parts.append(f"## {document['title']}\n\n{_origin(document)}\n\n{sections[name].markdown}\n")
    return "\n".join(parts), sections


def read_results(folder: Path) -> dict[str, Document]:
    """Read the committed results, by the experiment's name; raise ConfigError for other files and quick runs."""
    found = {}
    for name in _SECTIONS:
        path = folder / f"{name}.json"
        if not path.exists():
            continue
        document = read_document(path)
        if document["experiment"] != name:
            raise ConfigError(f"{path} holds the results of {document['experiment']}")
        if document["quick"]:
            raise ConfigError(
                f"{path} holds the results of a quick run, which do not belong on the page: run it without --quick"
            )
        found[name] = document
    return found


def write(results: dict[str, Document], path: Path) -> list[Path]:
    """Write the page and its figures; return their paths; raise ConfigError if one cannot be written."""
    text, sections = page(results)
    written = [path]
    figures = path.parent / path.stem
    try:
        figures.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        for section in sections.values():
            for name, figure in section.figures.items():
                written.append(figures / f"{name}.png")
                # Leave matplotlib's version out, so that equal figures are equal files.
                figure.savefig(written[-1], dpi=110, metadata={"Software": None})
    except OSError as error:
        raise ConfigError(f"cannot write to {error.filename}: {error.strerror}") from error
    return written


def _origin(document: Document) -> str:
    """Return the command, its machine and its running time."""
    machine, versions = document["machine"], document["versions"]
    memory = machine.get("memory_bytes")
    where = f"{machine['cpu']}, {machine['cores']} cores, {machine['system']}"
    if memory:
        where += f", {memory / 1e9:.0f} GB"
    with_versions = ", ".join(f"{name} {version}" for name, version in versions.items())
    lines = [
        f"    {document['command']}",
        "",
        f"{_duration(document['elapsed_seconds'])} on {where}; {_at_once(document['jobs'])}, {document['threads']} "
        f"thread{'' if document['threads'] == 1 else 's'} each; {with_versions}; {document['created'][:10]}.",
    ]
    if missing := document["unfinished"]:
        few = len(missing) <= _MOST_NAMED
        named = ", ".join(missing) if few else f"{len(missing)} of {len(missing) + len(document['arms'])} arms"
        lines += ["", f"**Not finished:** {named}."]
    return "\n".join(lines)


def _at_once(jobs: int) -> str:
    return "one arm at a time" if jobs == 1 else f"{jobs} arms at once"


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} seconds" if seconds < 120 else f"{seconds / 60:.0f} minutes"


def main(arguments: list[str] | None = None) -> int:
    """Return 0 if the page was written, and 1 if it could not be; wrong options end with 2."""
    parser = argparse.ArgumentParser(prog="python -m experiments.page", description=__doc__)
    parser.add_argument("--results", type=Path, default=Path("experiments/results"), help="the folder of the results")
    parser.add_argument("--out", type=Path, default=Path("docs/experiments.md"), help="the page; figures go beside it")
    options = parser.parse_args(arguments)
    try:
        written = write(read_results(options.results), options.out)
    except ConfigError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    sys.stdout.write("".join(f"{path}\n" for path in written))
    return 0


if __name__ == "__main__":
    sys.exit(main())

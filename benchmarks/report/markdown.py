"""The report as Markdown."""

from collections.abc import Sequence

from benchmarks.report import overview
from benchmarks.report.sections import SECTIONS
from benchmarks.report.tables import Table
from benchmarks.results import Document

_GENERATED = "<!-- Written by `python -m benchmarks.report`: change that, or measure again, instead of this file. -->"


def render(document: Document, drawn: set[str], image_folder: str) -> str:
    """The whole file; ``drawn`` are the figures that exist in ``image_folder``, beside it."""
    blocks = [f"# {overview.TITLE}", _GENERATED, " ".join(overview.summary_lines(document)), overview.RATIOS]
    page = f"{image_folder}/index.html"
    blocks.append(f"The same as one page: [{page}]({page}).")
    for table in (overview.missed_table(document), overview.reached_table(document)):
        if table is not None:
            blocks += [f"## {table.title}", _table(table)]
    for section in SECTIONS:
        blocks += [f"## {section.title}", section.counted]
        tables = section.tables(document)
        if not tables:
            blocks.append("*Not run.*")
        for picture in section.pictures:
            if picture.name in drawn:
                blocks.append(f"![{picture.alt}]({image_folder}/{picture.name}.png)")
        for table in tables:
            blocks += [f"**{table.title}**"] if table.title else []
            blocks += [_table(table), *table.notes]
        blocks += section.footnotes(document)
    machine, skipped = overview.machine_table(document), overview.skipped_table(document)
    blocks += [f"## {machine.title}", _table(machine)]
    if skipped is not None:
        blocks += [f"## {skipped.title}", _table(skipped)]
    width = max(len(command) for command, _ in overview.COMMANDS)
    lines = [f"$ {command.ljust(width)}  # {what}" for command, what in overview.COMMANDS]
    blocks += ["## Commands", "\n".join(["```console", *lines, "```"])]
    return "\n\n".join(blocks) + "\n"


def _table(table: Table) -> str:
    rules = [":---" if table.holds_words(column) else "---:" for column in range(len(table.columns))]
    return "\n".join(_row(cells) for cells in (table.columns, rules, *table.rows))


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

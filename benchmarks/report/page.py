"""The report as one HTML page that needs nothing but itself: no network, no other file."""

from html import escape
from pathlib import Path
from string import Template

from benchmarks.report import overview
from benchmarks.report.sections import SECTIONS
from benchmarks.report.tables import Table
from benchmarks.results import Document

_TEMPLATE = Path(__file__).parent / "page.html"


def render(document: Document, svgs: dict[str, str]) -> str:
    """The page; ``svgs`` are the figures that exist, as elements, by name."""
    lead = "".join(f"<p>{escape(line)}</p>" for line in overview.summary_lines(document))
    parts = [f'<div class="lead">{lead}</div>', f"<p>{escape(overview.RATIOS)}</p>"]
    links = [("goals", "Goals"), *((section.group, section.title) for section in SECTIONS), ("machine", "Machine")]
    goal_tables = [overview.missed_table(document), overview.reached_table(document)]
    parts.append('<section id="goals">')
    for table in goal_tables:
        if table is not None:
            parts += [f"<h2>{escape(table.title)}</h2>", _table(table)]
    if not any(goal_tables):
        parts.append("<h2>Goals</h2><p>None in these results.</p>")
    parts.append("</section>")
    for section in SECTIONS:
        parts.append(f'<section id="{section.group}"><h2>{escape(section.title)}</h2>')
        parts.append(f"<p>{_code(escape(section.counted))}</p>")
        tables = section.tables(document)
        if not tables:
            parts.append('<p class="missing">Not run.</p>')
        for picture in section.pictures:
            if picture.name in svgs:
                svg = svgs[picture.name].replace("<svg", f'<svg role="img" aria-label="{escape(picture.alt)}"', 1)
                parts.append(f"<figure>{svg}</figure>")
        for table in tables:
            parts += [f"<h3>{escape(table.title)}</h3>"] if table.title else []
            parts += [_table(table), *(f'<p class="note">{escape(note)}</p>' for note in table.notes)]
        parts += [f'<p class="note">{escape(note)}</p>' for note in section.footnotes(document)]
        parts.append("</section>")
    parts += ['<section id="machine"><h2>Machine</h2>', _table(overview.machine_table(document), headed=False)]
    if (skipped := overview.skipped_table(document)) is not None:
        parts += [f"<h2>{escape(skipped.title)}</h2>", _table(skipped)]
    parts.append("<h2>Commands</h2><dl>")
    parts += [f"<dt><code>{escape(command)}</code></dt><dd>{escape(what)}</dd>" for command, what in overview.COMMANDS]
    parts.append("</dl></section>")
    return Template(_TEMPLATE.read_text(encoding="utf-8")).substitute(
        title=escape(f"secagg {document['version']}: {overview.TITLE.lower()}"),
        heading=escape(overview.TITLE),
        links="".join(f'<a href="#{name}">{escape(text)}</a>' for name, text in links),
        body="\n".join(parts),
    )


def _table(table: Table, *, headed: bool = True) -> str:
    kinds = ["words" if table.holds_words(column) else "figures" for column in range(len(table.columns))]
    head = "".join(f'<th class="{kind}">{escape(cell)}</th>' for kind, cell in zip(kinds, table.columns, strict=True))
    rows = "".join(
        "<tr>" + "".join(_cell(kind, cell) for kind, cell in zip(kinds, row, strict=True)) + "</tr>"
        for row in table.rows
    )
    thead = f"<thead><tr>{head}</tr></thead>" if headed else ""
    return f'<div class="wide"><table>{thead}<tbody>{rows}</tbody></table></div>'


def _cell(kind: str, text: str) -> str:
    verdict = f" {text}" if text in ("reached", "missed") else ""
    return f'<td class="{kind}{verdict}">{escape(text)}</td>'


def _code(text: str) -> str:
    """`code` in a text as an element."""
    pieces = text.split("`")
    return "".join(f"<code>{piece}</code>" if index % 2 else piece for index, piece in enumerate(pieces))

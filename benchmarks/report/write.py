"""All files of a report."""

from pathlib import Path

from matplotlib.figure import Figure

from benchmarks.report import markdown, page
from benchmarks.report.errors import ReportError
from benchmarks.report.figures import style
from benchmarks.report.sections import SECTIONS
from benchmarks.results import Document

FOLDER = "benchmarks"


def write(document: Document, out: Path) -> list[Path]:
    """Write out/benchmarks.md, and out/benchmarks/ with the figures and index.html; returns what was written.

    Figures of an earlier report that this one has not are removed: they would show what its tables do not say.
    """
    folder = out / FOLDER
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with style.styled():
            figures = _draw(document)
            svgs = {name: _save(figure, folder, name) for name, figure in figures.items()}
        for picture in (picture for section in SECTIONS for picture in section.pictures):
            if picture.name not in figures:
                for ending in ("png", "svg"):
                    (folder / f"{picture.name}.{ending}").unlink(missing_ok=True)
        texts = {
            out / f"{FOLDER}.md": markdown.render(document, set(figures), FOLDER),
            folder / "index.html": page.render(document, svgs),
        }
        for path, text in texts.items():
            path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ReportError(f"{error.filename or out} cannot be written: {error.strerror}") from None
    drawn = [folder / f"{name}.{ending}" for name in figures for ending in ("png", "svg")]
    return [*texts, *drawn]


def _save(figure: Figure, folder: Path, name: str) -> str:
    """Write name.png and name.svg; returns the figure as an element for the page."""
    style.lay_out(figure)
    style.save_png(figure, folder / f"{name}.png")
    svg = style.to_svg(figure, name)
    (folder / f"{name}.svg").write_text(style.as_file(svg), encoding="utf-8")
    return style.for_page(svg)


def _draw(document: Document) -> dict[str, Figure]:
    pictures = [picture for section in SECTIONS for picture in section.pictures]
    drawn = {picture.name: picture.draw(document) for picture in pictures}
    return {name: figure for name, figure in drawn.items() if figure is not None}

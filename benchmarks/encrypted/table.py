"""The results as tables, between the markers of a Markdown file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

BEGIN, END = "<!-- begin: benchmarks/encrypted -->", "<!-- end: benchmarks/encrypted -->"


def write_tables(results: dict[str, Any], page: Path) -> None:
    """Put the tables in place of what is between the markers; ValueError if they are not there."""
    text = page.read_text(encoding="utf-8")
    before, found, rest = text.partition(BEGIN)
    _, closed, after = rest.partition(END)
    if not found or not closed:
        raise ValueError(f"{page}: no {BEGIN} ... {END}")
    page.write_text(f"{before}{BEGIN}\n\n{tables(results)}\n\n{END}{after}", encoding="utf-8")


def tables(results: dict[str, Any]) -> str:
    """A row a case, and what they were measured on."""
    lines = [
        "| case | model | images | batch | ms an image | processor ms, all three | start, s | MB an image | accuracy "
        "| same image in plain text | predictions that agree |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for name, case in results["cases"].items():
        agreement = "-" if case["agreement"] is None else f"{100 * case['agreement']:.1f}%"
        lines.append(
            f"| {name} | `{case['model']}` | {case['images']:,} | {case['batch']} | "
            f"**{case['milliseconds_per_image']:.1f}** | {case['cpu_milliseconds_per_image']:.1f} | "
            f"{case['start_seconds']:.1f} | {case['bytes_per_image'] / 1e6:.2f} | {100 * case['accuracy']:.1f}% | "
            f"{100 * case['plain_accuracy']:.1f}% | {agreement} |"
        )
    lines += ["", "| model, in plain text on all 10,000 test images | accuracy |", "|---|--:|"]
    accuracies = {case["model"]: case["plain_accuracy_all"] for case in results["cases"].values()}
    lines += [f"| `{model}` | {100 * accuracy:.2f}% |" for model, accuracy in accuracies.items()]
    machine = results["machine"]
    loads = [case["load_before"] for case in results["cases"].values()]
    lines += [
        "",
        f"{machine['cpu']}, {machine['cores']} cores, Python {machine['python']}, numpy {machine['numpy']}; processes "
        f"that wanted a core before a case began (load average): {min(loads):.1f} to {max(loads):.1f}.",
    ]
    return "\n".join(lines)

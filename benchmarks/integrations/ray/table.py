"""The table of docs/scaling.md, from a results file."""

from __future__ import annotations

from typing import Any


def table(document: dict[str, Any]) -> str:
    """Markdown: a line for each job that was measured."""
    lines = [
        "| masks | of them agreed | values | split by | one core | Ray, 1 worker | Ray, 2 workers "
        "| 2 workers over 1 | two processes |",
        "| ---: | ---: | ---: | :--- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in document["results"]:
        params, seconds = row["params"], row["seconds"]
        lines.append(
            f"| {params['masks']:,} | {params['agreements']:,} | {params['values']:,} | {row['split_by']} | "
            + " | ".join(f"{seconds[name]:.2f} s" for name in ("one core", "ray 1", "ray 2"))
            + f" | {row['speed_of_two']:.2f} | {seconds['two processes']:.2f} s |"
        )
    return "\n".join(lines)

"""The table of docs/scaling.md, from a results file."""

from __future__ import annotations

from typing import Any

ENGINES = ("serial", "processes", "batched")


def table(document: dict[str, Any]) -> str:
    """Markdown: a line for each row that was measured."""
    lines = [
        "| model | batch | clients | plain loop, images/s | " + " | ".join(ENGINES) + " | fastest over plain |",
        "| :--- | ---: | ---: | ---: |" + " ---: |" * (len(ENGINES) + 1),
    ]
    for row in document["results"]:
        speeds, ratios, params = row["images_per_second"], row["over_plain"], row["params"]
        plain = max(speed for name, speed in speeds.items() if name.startswith("plain"))
        cells = [f"{speeds[name]:,.0f} ({ratios[name]:.2f})" if name in speeds else "–" for name in ENGINES]
        lines.append(
            f"| {params['model']} | {params['batch_size']} | {params['clients']} | {plain:,.0f} | "
            + " | ".join(cells)
            + f" | {max(ratios.values()):.2f} |"
        )
    return "\n".join(lines)

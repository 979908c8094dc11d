"""The figures of results.json as the table in docs/integrations/nvflare.md.

python -m benchmarks.integrations.nvflare.table      # writes it there
"""

import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results.json"
GUIDE = Path(__file__).parents[3] / "docs" / "integrations" / "nvflare.md"

_START, _END = "<!-- figures -->\n", "<!-- /figures -->\n"
_VERSIONS = ("nvflare", "tenseal", "torch")


def render(results: dict[str, Any]) -> str:
    """Markdown: a row a method and size of model, and what it was measured with."""
    lines = [
        "| parameters | average | seconds a round | of which training | up, a site and round | down | accuracy |",
        "|---:|---|---:|---:|---:|---:|---:|",
    ]
    for row in results["rows"]:
        cells = (
            f"{row['parameters']:,}",
            "`secagg`" if row["method"] == "secagg" else row["method"],
            f"{row['seconds_a_round']:.1f}",
            f"{row['train_seconds']:.1f}",
            _size(row["bytes_up_a_site"]),
            _size(row["bytes_down_a_site"]),
            f"{row['accuracy']:.3f}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    machine = results["machine"]
    versions = ", ".join(f"{name} {machine[name]}" for name in _VERSIONS)
    lines += [
        "",
        f"{results['rounds']} rounds, the medians without the first, in which the sites start; "
        f"{machine['cpus']} cores, Python {machine['python']}, {versions}.",
    ]
    return "\n".join(lines) + "\n"


def put_into(guide: str, results: dict[str, Any]) -> str:
    """The guide with the table between its marks."""
    before, _, rest = guide.partition(_START)
    _, _, after = rest.partition(_END)
    return f"{before}{_START}{render(results)}{_END}{after}"


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 1e6:.1f} MB" if num_bytes >= 1e6 else f"{num_bytes / 1e3:.0f} kB"


def main() -> None:
    """Write the table into the guide."""
    GUIDE.write_text(put_into(GUIDE.read_text(encoding="utf-8"), json.loads(RESULTS.read_text())), encoding="utf-8")


if __name__ == "__main__":
    main()

"""The table of figures in docs/integrations/flower.md, from the results.

python -m benchmarks.integrations.flower.table writes it; a test compares the two.
"""

import json
import re
from pathlib import Path
from statistics import median
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[3]
RESULTS = Path(__file__).with_name("results.json")
PAGE = REPOSITORY / "docs" / "integrations" / "flower.md"

_MARKED = re.compile(r"(<!-- figures: .*? -->\n).*?(<!-- end of figures -->)", re.DOTALL)
_NAMES = {"plain": "Flower, in the clear", "secagg+": "Flower's SecAgg+ (legacy API)", "secagg": "Flower with secagg"}


def table(results: dict[str, Any]) -> str:
    """The figures in Markdown."""
    machine, runs = results["machine"], results["runs"]
    first = runs[0]
    lines = [
        f"{first['parameters']:,} parameters (the 2NN of McMahan et al. on MNIST, 300 images a client, one epoch), "
        f"{first['rounds']} rounds a run, Flower's simulation engine on {machine['cores']} cores ({machine['cpu']}), "
        f"flwr {first['flwr']}, ray {first['ray']}, commit {results['commit']}; training included. `make bench-flower` "
        "runs all modes one after the other, those with two runs before and after the others.",
        "",
        "| clients | | seconds a round | kB down a client and round | kB up | accuracy |",
        "|---|---|---|---|---|---|",
    ]
    for clients in sorted({run["clients"] for run in runs}):
        for mode, name in _NAMES.items():
            same = [run for run in runs if run["clients"] == clients and run["mode"] == mode]
            if not same:
                continue
            seconds = ", ".join(f"{median(run['seconds']):.2f}" for run in same)
            accuracy = ", ".join(sorted({f"{run['accuracy'][-1]:.4f}" for run in same}))
            lines.append(
                f"| {clients} | {name} | {seconds} | {same[0]['bytes_down_per_client'] / 1e3:.0f} | "
                f"{same[0]['bytes_up_per_client'] / 1e3:.0f} | {accuracy} |"
            )
    return "\n".join(lines) + "\n"


def page_with(page: str, results: dict[str, Any]) -> str:
    """The page with its figures written anew."""
    return _MARKED.sub(lambda found: f"{found[1]}\n{table(results)}\n{found[2]}", page)


def main() -> None:
    """Write the page."""
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    PAGE.write_text(page_with(PAGE.read_text(encoding="utf-8"), results), encoding="utf-8")


if __name__ == "__main__":
    main()

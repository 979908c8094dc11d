"""What stands above the groups: goals, machine, commands, what was not run."""

from benchmarks.report import formatting
from benchmarks.report.goals import Goal, goals
from benchmarks.report.load import of_group
from benchmarks.report.sections import SECTIONS
from benchmarks.report.tables import Table
from benchmarks.results import Document

TITLE = "Benchmarks"

COMMANDS = (
    ("make bench", "everything; the results go to benchmarks/results/full.json"),
    ("make bench-quick", "smaller sizes; benchmarks/results/quick.json"),
    ("make bench-check", "exit code 1 if a ratio fell below its floor or a message grew"),
    ("python -m benchmarks.report --results benchmarks/results/full.json --out docs", "this report"),
)

RATIOS = (
    "Ratios are what may be compared between machines and runs; seconds drift, on shared machines by a factor of two. "
    "Goals are of this machine's kind. Every figure on this page is computed from the results file."
)


def summary_lines(document: Document) -> list[str]:
    """When, what and how many goals are reached."""
    all_goals = goals(document)
    reached = sum(goal.reached for goal in all_goals)
    mode = {"full": "full run", "quick": "quick run, at smaller sizes"}.get(document["mode"], document["mode"])
    commit = document["commit"] or "unknown"
    changed = " (a + marks uncommitted changes)" if commit.endswith("+") else ""
    lines = [f"secagg {document['version']}, commit {commit}{changed}, {document['created']}, {mode}."]
    if all_goals:
        lines.append(f"{reached} of {len(all_goals)} goals are reached.")
    missing = [section.title for section in SECTIONS if not of_group(document, section.group)]
    if missing:
        lines.append(f"Not run: {', '.join(missing)}.")
    return lines


def missed_table(document: Document) -> Table | None:
    """Goals that are not reached, and by how much."""
    missed = [goal for goal in goals(document) if not goal.reached]
    return _goal_table("Goals not reached", missed, with_distance=True) if missed else None


def reached_table(document: Document) -> Table | None:
    """Goals that are reached."""
    reached = [goal for goal in goals(document) if goal.reached]
    return _goal_table("Goals reached", reached, with_distance=False) if reached else None


def machine_table(document: Document) -> Table:
    """What it was measured on."""
    rows = []
    for key, item in document["machine"].items():
        text = ", ".join(map(str, item)) if isinstance(item, list) else formatting.value(key, item)
        rows.append((formatting.heading(key), text))
    return Table("Machine", ("", ""), tuple(rows))


def skipped_table(document: Document) -> Table | None:
    """What was left out, and why."""
    rows = tuple((skip["name"].replace("_", " "), skip["reason"]) for skip in document["skipped"])
    return Table("Left out of this run", ("benchmark", "why"), rows) if rows else None


def _goal_table(title: str, listed: list[Goal], *, with_distance: bool) -> Table:
    columns = ("group", "what", "measured", "goal") + (("short by",) if with_distance else ())
    rows = tuple(
        (goal.group, goal.what, goal.measured, goal.wanted) + ((f"{goal.distance:.0%}",) if with_distance else ())
        for goal in listed
    )
    return Table(title, columns, rows)

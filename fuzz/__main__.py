"""`python -m fuzz --seconds 600`: run each harness for its part of the time; exit with 1 after a finding."""

import argparse
import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
FINDINGS = HERE / "findings"

NAMES = ("codec", "client", "server", "suspension")


def fuzz(name: str, seconds: int) -> tuple[int, list[Path]]:
    """Run one harness; return the number of executions, and the inputs that broke something."""
    grown = HERE / "grown" / name
    for folder in (grown, FINDINGS):
        folder.mkdir(parents=True, exist_ok=True)
    before = set(FINDINGS.iterdir())
    options = [
        f"-max_total_time={seconds}",
        f"-artifact_prefix={FINDINGS}/{name}-",
        "-print_final_stats=1",
        "-max_len=4096",
        "-timeout=20",
        "-rss_limit_mb=2048",
    ]
    command = [sys.executable, "-m", "fuzz.atheris_main", name, str(grown), str(HERE / "corpus" / name), *options]
    done = subprocess.run(command, capture_output=True, text=True, cwd=HERE.parent, check=False)  # noqa: S603
    found = sorted(set(FINDINGS.iterdir()) - before)
    executions = re.search(r"stat::number_of_executed_units:\s*(\d+)", done.stderr + done.stdout)
    if found or done.returncode or executions is None:
        lines = (done.stdout + done.stderr).splitlines()
        # Leave out libFuzzer's progress.
        sys.stderr.write("\n".join(line for line in lines if not line.startswith("#"))[-8000:] + "\n")
    if executions is None or (done.returncode and not found):
        raise SystemExit(f"the harness {name} did not run: exit status {done.returncode}")
    return int(executions[1]), found


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    parser.add_argument("--seconds", type=int, default=600, help="total time of all harnesses")
    parser.add_argument("--only", choices=NAMES, action="append", help="run this harness only; may be repeated")
    options = parser.parse_args()
    names = options.only or list(NAMES)
    seconds = max(1, options.seconds // len(names))
    broken: list[Path] = []
    for name in names:
        executions, found = fuzz(name, seconds)
        sys.stdout.write(f"{name}: {executions} executions in {seconds} s, {len(found)} findings\n")
        sys.stdout.flush()
        broken += found
    for path in broken:
        sys.stdout.write(f"finding: {path.relative_to(HERE.parent)}\n")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())

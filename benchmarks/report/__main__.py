"""`python -m benchmarks.report`: tables, figures and a page of a results file."""

import argparse
import sys
from pathlib import Path

from benchmarks import results
from benchmarks.report.errors import ReportError
from benchmarks.report.load import load
from benchmarks.report.write import write


def main(arguments: list[str] | None = None) -> int:
    """0 if the report was written, 1 if it could not be; wrong options end with 2."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report", description=__doc__)
    parser.add_argument("--results", type=Path, default=results.path_of("full"), help="what `make bench` wrote")
    parser.add_argument("--out", type=Path, default=Path("docs"), help="the folder of benchmarks.md and benchmarks/")
    options = parser.parse_args(arguments)
    try:
        for path in write(load(options.results), options.out):
            print(path)
    except ReportError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

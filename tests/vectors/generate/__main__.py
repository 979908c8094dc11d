"""Write the test vectors for implementers in other languages, or check that the committed ones are current.

    python -m tests.vectors.generate            # write tests/vectors/*.json
    python -m tests.vectors.generate --check    # exit 1 if a file is not exactly what would be written

Everything follows from fixed seeds: two runs write the same bytes.
"""

import argparse
import sys
from pathlib import Path

from .files import build_files

DEFAULT_FOLDER = Path(__file__).resolve().parents[1]


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(description="Write or check the test vectors.")
    parser.add_argument("--out", type=Path, default=DEFAULT_FOLDER, help="the folder of the files")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a file differs")
    options = parser.parse_args(arguments)
    files = build_files()
    if options.check:
        stale = stale_files(options.out, files)
        for name in stale:
            sys.stderr.write(f"{name} is stale: run python -m tests.vectors.generate\n")
        return 1 if stale else 0
    options.out.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (options.out / name).write_text(text, encoding="ascii", newline="\n")
    return 0


def stale_files(folder: Path, files: dict[str, str]) -> list[str]:
    """Return the names of files that are missing in ``folder``, differ from ``files``, or do not belong there."""
    present = {path.name for path in folder.glob("*.json")}
    differing = {name for name in present & files.keys() if (folder / name).read_bytes() != files[name].encode("ascii")}
    return sorted(differing | (present ^ files.keys()))


if __name__ == "__main__":
    sys.exit(main())

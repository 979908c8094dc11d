"""Run one harness under atheris: `python -m fuzz.atheris_main NAME [libFuzzer's arguments]`."""

import sys

import atheris

with atheris.instrument_imports(include=["secagg"]):
    import secagg  # noqa: F401

from fuzz.harnesses import HARNESSES
from fuzz.recorded import KINDS, recorded


def main() -> None:
    program, name, *arguments = sys.argv
    for kind in range(len(KINDS)):
        recorded(kind)  # now, so that it does not count as time of the first inputs
    atheris.Setup([program, *arguments], HARNESSES[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()

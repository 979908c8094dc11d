"""The console script: explains what to install where the lean core is all there is."""

import os
import sys


def main() -> None:
    """Run the command line."""
    # Before torch is loaded: its threads would wait for each other by spinning, which on cores that are busy with
    # something else makes two of them many times slower than one.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        from fl.cli import app
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] in ("fl", "transport", "secagg"):
            raise
        sys.exit(f"secagg: the command line needs {error.name}; install it with: pip install 'secagg-fl[fl]'")
    app()


if __name__ == "__main__":
    main()

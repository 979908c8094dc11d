"""The console script: explains what to install where the lean core is all there is."""

import sys


def main() -> None:
    """Run the command line."""
    try:
        from fl.cli import app
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] in ("fl", "transport", "secagg"):
            raise
        sys.exit(f"secagg: the command line needs {error.name}; install it with: pip install 'secagg-fl[fl]'")
    app()


if __name__ == "__main__":
    main()

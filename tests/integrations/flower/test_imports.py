"""fl without its adapter: Flower is not loaded."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("flwr", reason="needs Flower, which has its own environment: make test-flower")


def test_importing_fl_does_not_load_flower() -> None:
    code = (
        "import sys, pkgutil, importlib, fl, fl.integrations\n"
        "for module in pkgutil.iter_modules(fl.integrations.__path__, 'fl.integrations.'):\n"
        "    if not module.ispkg: importlib.import_module(module.name)\n"
        "import fl.runs.rounds, fl.aggregation.api\n"
        "assert not any(name.split('.')[0] == 'flwr' for name in sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ}, cwd=Path(__file__).parents[3])  # noqa: S603

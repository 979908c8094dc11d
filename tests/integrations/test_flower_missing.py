"""Without Flower, or with moved names in it, the adapter's import says what to do; needs no Flower."""

import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]


def test_another_flower_is_named_in_the_error(tmp_path: Path) -> None:
    (tmp_path / "flwr").mkdir()
    (tmp_path / "flwr" / "__init__.py").touch()
    (tmp_path / "flwr" / "app.py").touch()
    path = os.pathsep.join([str(tmp_path), str(REPOSITORY)])
    done = subprocess.run(
        [sys.executable, "-c", "import fl.integrations.flower"],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    last = done.stderr.strip().splitlines()[-1]
    assert "secagg's adapter for Flower works with flwr" in last
    assert "cannot import name 'Array' from 'flwr.app'" in last

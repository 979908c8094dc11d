"""The example runs as its text says, in its own process and folder."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("nvflare", reason="needs NVFlare, which has its own environment: make test-nvflare")

EXAMPLE = Path(__file__).resolve().parents[3] / "examples" / "nvflare_digits"


def test_three_sites_learn_the_digits(tmp_path: Path) -> None:
    done = subprocess.run(  # noqa: S603 - our own program
        [sys.executable, str(EXAMPLE / "job.py"), "--rounds", "2"],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    (accuracy,) = re.findall(r"accuracy of the global model: ([\d.]+)", done.stdout)
    assert float(accuracy) > 0.85

"""Jobs in NVFlare's simulator, in separate processes."""

import os
import subprocess
import sys
from pathlib import Path

JOB = Path(__file__).parent / "job"


def run_job(folder: Path, script: str, *arguments: str, fails: bool = False) -> str:
    """Run the job; return the output of its processes."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    command = [sys.executable, script, str(folder), *arguments]
    with (folder / "log").open("w") as log:
        # Older releases look for scripts beneath the folder that the job is made in.
        done = subprocess.run(  # noqa: S603 - the arguments are ours
            command, env=environment, stdout=log, stderr=log, timeout=300, check=False, cwd=JOB
        )
    text = (folder / "log").read_text()
    assert (done.returncode != 0) is fails, text[-5000:]
    return text

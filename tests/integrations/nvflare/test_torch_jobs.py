"""Jobs of NVFlare's torch recipes in its simulator: what they come to is known, to the last counter."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("nvflare", reason="needs NVFlare, which has an environment of its own: make test-nvflare")

import numpy as np
import torch

JOB = Path(__file__).parent / "job"
ROUNDS = 4
# One step of 24 bits a round at the smallest weight, 10 of 30.
STEP = 4.0 / 2**24 * 3


def run(folder: Path, *arguments: str) -> str:
    """What the job's processes wrote."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    command = [sys.executable, "run_torch.py", str(folder), *arguments]
    with (folder / "log").open("w") as log:
        done = subprocess.run(  # noqa: S603 - the arguments are ours
            command, env=environment, stdout=log, stderr=log, timeout=300, check=False, cwd=JOB
        )
    text = (folder / "log").read_text()
    assert done.returncode == 0, text[-5000:]
    return text


def final_model(folder: Path) -> dict[str, torch.Tensor]:
    (saved,) = folder.rglob("FL_global_model.pt")
    return {name: torch.as_tensor(entry) for name, entry in torch.load(saved, weights_only=False)["model"].items()}


def initial_model() -> dict[str, torch.Tensor]:
    sys.path.insert(0, str(JOB))
    try:
        from bn_model import Net
    finally:
        sys.path.remove(str(JOB))
    return Net().state_dict()


def mean_change(round_: int) -> float:
    """Site k adds k / 8 + round / 64 to every float, weighted by k."""
    return (1 + 4 + 9) / 6 / 8 + round_ / 64


def assert_averaged(log: str, model: dict[str, torch.Tensor]) -> None:
    """Every round was one of all sites, and the model is that of the plain means; its counter is as it was."""
    assert log.count("the sum of 3 of 3 sites") == ROUNDS
    before = initial_model()
    assert list(model) == list(before)
    for name, entry in before.items():
        assert model[name].dtype == entry.dtype
        expected = entry.numpy() if name.endswith("tracked") else entry.numpy() + sum(map(mean_change, range(ROUNDS)))
        np.testing.assert_allclose(model[name].numpy(), expected, atol=ROUNDS * STEP)


def test_a_trainer_in_a_process_of_its_own(tmp_path: Path) -> None:
    """NVFlare hands such a trainer's executor references in place of arrays, both ways."""
    assert_averaged(run(tmp_path, "--external"), final_model(tmp_path))

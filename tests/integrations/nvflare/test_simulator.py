"""A job in NVFlare's simulator: three processes, one of which leaves in every round of the protocol."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("nvflare", reason="needs NVFlare, which has its own environment: make test-nvflare")

import numpy as np

JOB = Path(__file__).parent / "job"

# The action of site-3 in each of the job's rounds, and the sites whose updates are then in the mean.
SCHEDULE = [
    ("", (1, 2, 3)),
    ("secagg_advertise_keys:error", (1, 2)),
    ("secagg_share_keys:error", (1, 2)),
    ("secagg_masked_input:error", (1, 2)),
    ("secagg_consistency_check:error", (1, 2, 3)),
    ("secagg_unmasking:error", (1, 2, 3)),
    ("not finite", (1, 2)),
    ("secagg_masked_input:late", (1, 2)),
    ("secagg_masked_input:killed", (1, 2)),
    ("", (1, 2)),
]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the workspace of a finished job, with the simulator's log beside it."""
    folder = tmp_path_factory.mktemp("nvflare")
    schedule = [how if ":" in how else "" for how, _ in SCHEDULE]
    broken = ",".join(f"3:{number}" for number, (how, _) in enumerate(SCHEDULE) if how == "not finite")
    command = [sys.executable, str(JOB / "run_job.py"), str(folder), broken, *schedule]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    with (folder / "log").open("w") as log:
        done = subprocess.run(  # noqa: S603 - the arguments are ours
            command, env=environment, stdout=log, stderr=log, timeout=400, check=False
        )
    assert done.returncode == 0, (folder / "log").read_text()[-5000:]
    return folder


def test_the_model_equals_the_plain_means(workspace: Path) -> None:
    expected = 0.0
    for number, (_, included) in enumerate(SCHEDULE):
        expected += sum(site * site / 8 for site in included) / sum(included) + number / 64
    model = np.load(next(workspace.rglob("server.npy")))
    assert model.shape == (6,)
    # One step of 24 bits a round.
    np.testing.assert_allclose(model, expected, atol=len(SCHEDULE) * 8 / 2**24 * 64 / 30)


def test_the_log_names_sites_that_left_and_their_round(workspace: Path) -> None:
    lines = re.findall(r"round (\d+): (the sum of \d of 3 sites.*)", (workspace / "log").read_text())
    said = {int(number): text for number, text in lines}
    assert sorted(said) == list(range(len(SCHEDULE)))
    names = {"advertise_keys": "AdvertiseKeys", "share_keys": "ShareKeys", "masked_input": "MaskedInputCollection"}
    names |= {"consistency_check": "ConsistencyCheck", "unmasking": "Unmasking"}
    for number, (how, included) in enumerate(SCHEDULE):
        # A site whose training failed sends an input that counts nothing, so that nobody sees which one it was.
        in_sum = 3 if how == "not finite" else len(included)
        assert said[number].startswith(f"the sum of {in_sum} of 3 sites")
        if ":" in how:
            task = how.partition(":")[0].removeprefix("secagg_")
            assert f"left: site-3 in {names[task]}" in said[number]
    assert "its time was up" in said[7]
    assert "its time was up" in said[8]


def test_the_reason_is_in_the_sites_own_log_only(workspace: Path) -> None:
    server = "".join(path.read_text() for path in (workspace / "job" / "server").rglob("log*.txt"))
    site = "".join(path.read_text() for path in (workspace / "job" / "site-3").rglob("log*.txt"))
    assert "not finite" in site
    assert "not finite" not in server


def test_the_best_model_was_selected_by_the_mean_metric(workspace: Path) -> None:
    # Site k reports k / 4, weighted by k: the mean is never higher than in round 4, with all three sites.
    found = re.findall(r"new best validation metric at round (\d+): ([\d.]+)", (workspace / "log").read_text())
    best = {int(number): float(metric) for number, metric in found}
    assert best[1] == pytest.approx(5 / 12, abs=1e-5)
    assert best[4] == pytest.approx(7 / 12, abs=1e-5)
    assert max(best) == 4

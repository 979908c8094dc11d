"""Jobs of NVFlare's torch recipes in its simulator: their results are known, to the last counter."""

import json
import sys
from pathlib import Path

import pytest

pytest.importorskip("nvflare", reason="needs NVFlare, which has its own environment: make test-nvflare")

import numpy as np
import torch

from fl.integrations.nvflare import _nvflare
from tests.integrations.nvflare.jobs import JOB, run_job

ROUNDS = 4
# One step of 24 bits a round at the smallest weight. Bounds are found: that of changes is 8 at most, of steps 128.
STEP = 16.0 / 2**24 * 128 / 10


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
    """Return the mean change: site k adds k / 8 + round / 64 to every float, weighted by k."""
    return (1 + 4 + 9) / 6 / 8 + round_ / 64


def assert_averaged(log: str, model: dict[str, torch.Tensor]) -> None:
    """Assert that every round had all sites, and that the model has the plain means, with its counter unchanged."""
    assert log.count("the sum of 3 of 3 sites") == ROUNDS
    assert log.count("the ranges of 3 of 3 sites") == 1
    before = initial_model()
    assert list(model) == list(before)
    for name, entry in before.items():
        assert model[name].dtype == entry.dtype
        expected = entry.numpy() if name.endswith("tracked") else entry.numpy() + sum(map(mean_change, range(ROUNDS)))
        np.testing.assert_allclose(model[name].numpy(), expected, atol=ROUNDS * STEP)


def test_a_trainer_in_a_separate_process(tmp_path: Path) -> None:
    """NVFlare gives such a trainer's executor references in place of arrays, in both directions."""
    assert_averaged(run_job(tmp_path, "run_torch.py", "--external"), final_model(tmp_path))


def test_fedopt_is_that_of_plain_means(tmp_path: Path) -> None:
    """Momentum and a scheduler carry each round's mean into the next; only sums of updates are seen."""
    models = {}
    for how in ("secure", "plain"):
        folder = tmp_path / how
        folder.mkdir()
        log = run_job(folder, "run_torch.py", "--fedopt", *(["--plain"] if how == "plain" else []))
        assert log.count("FedOpt (torch.optim.SGD, cpu) server model update") == ROUNDS
        assert log.count("the sum of 3 of 3 sites") == (ROUNDS if how == "secure" else 0)
        models[how] = final_model(folder)
    before = initial_model()
    for name, entry in models["secure"].items():
        assert entry.dtype == before[name].dtype
        if name.endswith("tracked"):
            # NVFlare's own would make a float of it, and average it.
            assert entry == before[name]
        else:
            np.testing.assert_allclose(entry.numpy(), models["plain"][name].numpy(), atol=2 * ROUNDS * STEP)
            assert abs(entry - before[name]).min() > 0.1


@pytest.mark.skipif(_nvflare.version() < "2.9", reason="add_final_global_evaluation is new in NVFlare 2.9")
@pytest.mark.parametrize("order", ["before", "after"])
def test_the_averaged_model_is_evaluated(tmp_path: Path, order: str) -> None:
    log = run_job(tmp_path, "run_torch.py", "--evaluate", order)
    model = final_model(tmp_path)
    assert_averaged(log, model)
    found = json.loads(next(tmp_path.rglob("cross_val_results.json")).read_text())
    expected = float(model["layers.0.bias"].mean())
    assert {site: results["SRV_FL_global_model.pt"] for site, results in found.items()} == {
        f"site-{number}": {"accuracy": pytest.approx(expected)} for number in (1, 2, 3)
    }


def test_a_job_whose_rounds_all_fail_has_failed(tmp_path: Path) -> None:
    """Two rounds, with two allowed failures: it still ends with an exception that says why."""
    # The simulator of older releases always exits with success.
    log = run_job(tmp_path, "run_torch.py", "--broken", fails=_nvflare.version() >= "2.9")
    assert "none of 2 rounds had a result; the last: the first session, which measures the updates, failed" in log
    assert "failed: aborted in MaskedInputCollection" in log
    (server,) = tmp_path.glob("job/server/log.txt")
    said = server.read_text()
    for number in (1, 2, 3):
        assert (
            f"round 0: site-{number} is out: 'layers.0.bias' has shape (1,), but the one that was sent has (16,)"
            in said
        )

"""Private rounds: changes with noise, a site's own limits and ledger, and servers that announce other noise."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("nvflare", reason="needs NVFlare, which has its own environment: make test-nvflare")

import numpy as np
from nvflare.apis.fl_constant import ReturnCode
from nvflare.apis.shareable import Shareable, make_reply
from nvflare.apis.signal import Signal
from nvflare.app_common.abstract.fl_model import FLModel

from fl.integrations.nvflare.announcement import TaskAnnouncement
from fl.integrations.nvflare.errors import NVFlareJobError, TaskAnnouncementError
from tests.integrations.nvflare.loopback import Site, initial_model
from tests.integrations.nvflare.test_controller import Controller
from tests.integrations.nvflare.test_rounds import CHANGE, SITES, make_sites, trained

PRIVATE = {"epsilon": 200.0, "delta": 1e-2, "l2_clip": 1.5, "clip": None, "max_steps": None, "metrics": []}
LIMITS = {"max_epsilon": 200.0, "delta": 1e-2}


def controller(sites: dict[str, Site], **arguments: Any) -> Controller:
    return Controller(sites, **(PRIVATE | arguments))


def limited(folder: Path, limits: dict[str, Any] | None = None, changes: Any = None, **arguments: Any) -> Any:
    """Return sites with limits of privacy in files of their own."""
    for name in SITES:
        (folder / name).mkdir(exist_ok=True)
        (folder / name / "secagg_privacy.json").write_text(json.dumps(LIMITS if limits is None else limits))
    return make_sites(folder, changes, **arguments)


def charges(path: Path) -> int:
    return sum(count for _, count, _ in json.loads(path.read_text())["charges"])


def one_round(server: Controller, number: int = 0) -> FLModel:
    model = replace_round(initial_model(), number)
    server.current_round = number
    server.send_model(data=model, targets=list(server.sites))
    return server._get_aggregated_result()


def replace_round(model: FLModel, number: int) -> FLModel:
    model.current_round, model.start_round, model.total_rounds = number, 0, 5
    return model


def test_the_mean_is_that_of_the_clipped_changes_with_noise(tmp_path: Path) -> None:
    sites = limited(tmp_path)
    server = controller(sites, ledger=str(tmp_path / "server.json"))
    result = one_round(server)
    assert server.panics == []
    # Each site counts once, whatever its steps; metrics stay.
    assert (result.meta["nr_aggregated"], result.meta["NUM_STEPS_CURRENT_ROUND"], result.metrics) == (3, 3, None)
    elements = 12 + 3
    mean = np.mean([np.sign(one) * min(abs(one), 1.5 / np.sqrt(elements)) for one in CHANGE.values()])
    error = np.concatenate([np.ravel(result.params[name] - mean) for name in ("weight", "bias")])
    (announcement,) = server.announced
    assert announcement.privacy is not None
    deviation = announcement.privacy.mechanism.stddev(3) / 3
    assert 0.2 * deviation < float(np.sqrt(np.square(error).mean())) < 2 * deviation
    assert result.params["weight"].dtype == np.float32
    assert "counter" not in result.params
    assert charges(tmp_path / "server.json") == 1
    assert [charges(tmp_path / name / "secagg_privacy" / "privacy.json") for name in SITES] == [1, 1, 1]


def test_a_job_ends_when_its_budget_is_spent(tmp_path: Path) -> None:
    sites = make_sites(tmp_path)
    server = controller(sites, ledger=str(tmp_path / "server.json"))
    for number in range(5):
        assert one_round(server, number).params
    assert server.panics == []
    again = controller(sites, ledger=str(tmp_path / "server.json"))
    assert not one_round(again, 6).params
    assert "above the budget of 200" in again.panics[0]


def test_a_site_with_limits_refuses_rounds_without_noise_and_plain_tasks(tmp_path: Path) -> None:
    sites = limited(tmp_path, plain_tasks=["validate"])
    server = Controller(sites)
    assert not one_round(server).params
    assert [site.trainer.calls for site in sites.values()] == [0, 0, 0]
    site = sites["a"]
    answer = site.executor.execute("validate", Shareable(), site.context(), Signal())
    assert answer.get_return_code() == ReturnCode.TASK_UNKNOWN
    assert site.trainer.calls == 0


@pytest.mark.parametrize(
    ("limits", "why"),
    [
        (LIMITS | {"max_epsilon_per_round": 15.0}, "at most 15 is allowed"),
        (LIMITS | {"max_epsilon": 15.0}, "above its limit of 15"),
        (LIMITS | {"min_honest": 4}, "asks for 4"),
    ],
)
def test_a_site_refuses_what_is_beyond_its_limits_before_it_trains(
    limits: dict[str, Any], why: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sites = limited(tmp_path, limits)
    assert not one_round(controller(sites)).params
    assert [site.trainer.calls for site in sites.values()] == [0, 0, 0]
    assert why in caplog.text
    assert all(charges(path) == 0 for path in tmp_path.glob("*/secagg_privacy/privacy.json"))


def test_the_ledger_is_charged_before_the_trainer_sees_the_model_and_outlives_the_job(tmp_path: Path) -> None:
    seen: list[int] = []

    def train(name: str) -> Any:
        def run(model: FLModel) -> FLModel:
            seen.append(charges(tmp_path / name / "secagg_privacy" / "privacy.json"))
            return trained(model, name)

        return run

    limits = LIMITS | {"max_epsilon": 100.0}
    for _ in range(2):
        sites = limited(tmp_path, limits, {name: train(name) for name in SITES})
        assert one_round(controller(sites)).params
    assert seen == [1, 1, 1, 2, 2, 2]
    for _ in range(9):
        if not one_round(controller(sites)).params:
            break
    else:
        pytest.fail("the sites' limits were never reached")
    assert len(seen) <= 15


@pytest.mark.parametrize("damage", ["{", "[]", '{"max_epsilon": 8}', '{"max_epsilon": "8", "delta": 1e-5}', "null"])
def test_limits_that_cannot_be_read_are_not_ignored(damage: str, tmp_path: Path) -> None:
    sites = limited(tmp_path)
    for name in SITES:
        (tmp_path / name / "secagg_privacy.json").write_text(damage)
    assert not one_round(Controller(sites)).params
    assert [site.trainer.calls for site in sites.values()] == [0, 0, 0]


def fails(model: FLModel) -> Shareable:
    return make_reply(ReturnCode.EXECUTION_EXCEPTION)


def not_finite(model: FLModel) -> FLModel:
    model.params["bias"][1] = np.nan
    return trained(model, "b")


def raises(model: FLModel) -> Any:
    raise ZeroDivisionError("the loss is nan")


@pytest.mark.parametrize("broken", [fails, not_finite, raises])
def test_a_site_whose_training_fails_sends_noise_that_looks_the_same(
    broken: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sites = make_sites(tmp_path, {"b": broken})
    server = controller(sites)
    assert one_round(server).meta["nr_aggregated"] == 3
    assert "this site's input is noise alone" in caplog.text
    assert [len(result) for result in sites["b"].results] == [len(result) for result in sites["a"].results]


def test_an_announcement_whose_noise_does_not_fit_is_none(tmp_path: Path) -> None:
    server = controller(make_sites(tmp_path))
    one_round(server)
    (honest,) = server.announced
    assert TaskAnnouncement.from_bytes(honest.to_bytes()) == honest
    own = honest.privacy
    assert own is not None
    for lie in (
        replace(honest, privacy=None),
        replace(honest, params=replace(honest.params, modular=False, ring_bits=24)),
        replace(honest, privacy=replace(own, honest=own.honest + 1)),
        replace(honest, privacy=replace(own, mechanism=replace(own.mechanism, ring_bits=own.mechanism.ring_bits - 1))),
    ):
        with pytest.raises(TaskAnnouncementError):
            TaskAnnouncement.from_bytes(lie.to_bytes())


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ({"delta": None}, "needs delta"),
        ({"epsilon": None}, "belong to a job with epsilon"),
        ({"clip": 1.0}, "plan clip"),
        ({"graph": "sparse"}, "complete graph"),
        ({"delta": 0.9}, "delta is"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(arguments: dict[str, Any], why: str) -> None:
    with pytest.raises(NVFlareJobError, match=why):
        controller({}, **arguments)

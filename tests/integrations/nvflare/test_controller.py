"""The server's plans and announcements, and its treatment of invalid sums; without NVFlare's server around it."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("nvflare", reason="needs NVFlare, which has its own environment: make test-nvflare")

import numpy as np
from nvflare.apis.fl_context import FLContextManager
from nvflare.apis.shareable import Shareable
from nvflare.app_common.abstract.fl_model import FLModel
from nvflare.app_common.workflows.fedavg import FedAvg

import secagg
from fl.aggregation.scales import RangeEncoding
from fl.integrations.nvflare import NVFlareJobError, SecAggController, messages
from fl.integrations.nvflare.announcement import TaskAnnouncement
from fl.integrations.nvflare.server_session import TaskReport
from secagg import Round
from tests.integrations.nvflare.cohort import SITES, STEPS, VICTIM, by_learning_rate, model_with
from tests.integrations.nvflare.loopback import JOB, LoopbackCourier, Site


class Controller(SecAggController):
    """The controller, whose sessions run with sites in this process."""

    def __init__(self, sites: dict[str, Site], **arguments: Any) -> None:
        fixed = {"clip": 2.0, "max_steps": 64, "metrics": ["accuracy"], "metric_bound": 10.0}
        super().__init__(num_rounds=5, **(fixed | arguments))
        self.sites = sites
        self.fl_ctx = FLContextManager(None, "server", JOB).new_context()
        self.panics: list[str] = []
        self.announced: list[TaskAnnouncement] = []
        self.spoil = False

    def panic(self, reason: str) -> None:
        self.panics.append(reason)

    def event(self, event_type: str) -> None:
        pass

    def _run(self, announcement: TaskAnnouncement, model: FLModel) -> TaskReport:
        self.announced.append(announcement)
        courier = LoopbackCourier(announcement, model, self.sites)
        if self.spoil:
            spoil(courier)
        return courier.run()

    def round_of(self, round_: int, **meta: Any) -> FLModel:
        """Run one round, as FedAvg's loop does; return its average."""
        model = model_with(0.25, round_)
        model.meta |= meta
        self.current_round = round_
        self.send_model(data=model, targets=list(self.sites))
        return self._get_aggregated_result()


def spoil(courier: LoopbackCourier) -> None:
    """Let the victim's masked input subtract all sites' steps, as a dishonest site can."""
    send, params = courier.sites[VICTIM].do, courier.announcement.params

    def do(task: str, data: bytes) -> Shareable:
        result = send(task, data)
        if task != messages.TASKS[Round.MASKED_INPUT_COLLECTION]:
            return result
        message = messages.take_message(result)
        assert message is not None
        masked = secagg.decode_client_message(message, params)
        vector = np.array(masked.masked_input)
        # After twelve and three elements, and the ranges, the digit of the steps: less than 2^24 of them.
        encoding = courier.announcement.encoding
        ranges = RangeEncoding(
            num_tensors=2, num_clients=encoding.num_sites, value_bits=encoding.value_bits, scales=encoding.scales
        )
        steps = 0 if encoding.measures else 15 + ranges.vector_length
        vector[steps] = (int(vector[steps]) - STEPS * len(courier.sites)) % (1 << params.ring_bits)
        spoilt = secagg.encode(dataclasses.replace(masked, masked_input=vector), params)
        return messages.put_message(Shareable(), spoilt)

    courier.sites[VICTIM].do = do  # type: ignore[method-assign]


@pytest.fixture
def sites(tmp_path: Path) -> dict[str, Site]:
    return {name: Site(name, by_learning_rate(name), tmp_path) for name in SITES}


MEAN = 0.25 * 2.5


def test_a_round_without_a_mean_in_its_sum_is_one_without_a_result(
    sites: dict[str, Site], caplog: pytest.LogCaptureFixture
) -> None:
    """One site can spoil a sum, but not end the job with it."""
    controller = Controller(sites, max_failed_rounds=1)
    honest = sites[VICTIM].do
    for round_ in (0, 2):
        controller.spoil = True
        spoilt = controller.round_of(round_)
        assert spoilt.params == {}
        assert spoilt.meta["nr_aggregated"] == 0
        assert f"round {round_}: the sum of 4 of 4 sites" in caplog.text
        assert "an invalid input" in caplog.text
        controller.spoil, sites[VICTIM].do = False, honest  # type: ignore[method-assign]
        # The job continues, and the count of failed rounds restarts.
        whole = controller.round_of(round_ + 1)
        assert whole.params["bias"].mean() == pytest.approx(MEAN, abs=1e-5)
    assert controller.panics == []


def test_too_many_spoilt_rounds_in_a_row_end_the_job(sites: dict[str, Site]) -> None:
    controller = Controller(sites, max_failed_rounds=1)
    controller.spoil = True
    honest = sites[VICTIM].do
    for round_ in (0, 1):
        assert controller.panics == []
        controller.round_of(round_)
        sites[VICTIM].do = honest  # type: ignore[method-assign]
    assert "2 rounds in a row without a result" in controller.panics[0]


@pytest.mark.parametrize("num_rounds", [1, 2, 3])
def test_a_job_without_any_result_has_failed(
    sites: dict[str, Site], monkeypatch: pytest.MonkeyPatch, num_rounds: int
) -> None:
    """Also with fewer rounds than the allowed failures."""

    def refused(model: FLModel) -> FLModel:
        return FLModel(params={"weight": np.zeros(2), "bias": model.params["bias"]})

    failing = {"a": refused, "b": refused, "c": refused, "d": refused}
    for fails in (True, False):
        controller = Controller(sites, max_failed_rounds=2)
        monkeypatch.setattr(
            FedAvg, "run", lambda self: [self.round_of(number) for number in range(num_rounds) if not self.panics]
        )
        for name, site in sites.items():
            site.trainer.train = failing[name] if fails else by_learning_rate(name)
        controller.run()
        if fails:
            (panic,) = controller.panics
            assert f"{num_rounds} rounds" in panic
            assert "fewer clients than the threshold" in panic
        else:
            assert controller.panics == []


def test_one_round_with_a_result_is_enough(sites: dict[str, Site], monkeypatch: pytest.MonkeyPatch) -> None:
    controller = Controller(sites, max_failed_rounds=2)

    def run(self: Controller) -> None:
        self.round_of(0)
        self.spoil = True
        self.round_of(1)

    monkeypatch.setattr(FedAvg, "run", run)
    controller.run()
    assert controller.panics == []


def test_the_servers_log_says_why_sites_left(sites: dict[str, Site], caplog: pytest.LogCaptureFixture) -> None:
    """One line each, on names, types, shapes and settings; reasons about values stay on the site."""

    def with_entry(entry: Any) -> Any:
        return lambda model: FLModel(params=model.params | {"bias": entry})

    sites["a"].trainer.train = with_entry(np.zeros((3, 1)))
    sites["b"].trainer.train = with_entry(np.array(["x", "y", "z"]))
    sites["c"].trainer.train = with_entry(np.array([0.0, np.nan, 0.0]))
    Controller(sites).round_of(0)
    said = [
        record.getMessage() for record in caplog.records if record.name.endswith("controller") and " is out: " in
        record.getMessage()
    ]  # fmt: skip
    assert said == [
        "round 0: a is out: 'bias' has shape (3, 1), but the one that was sent has (3,)",
        "round 0: b is out: 'bias' must be an array of numbers, but has type <U1",
    ]


def test_integers_keep_type_and_value_from_round_to_round(sites: dict[str, Site]) -> None:
    """This holds for all replies: counters have no average, and NVFlare's would make floats of them."""
    own = {"counter": np.array(7), "flags": np.array([True, False]), "small": np.array([1, 255], np.uint8)}

    def counting(name: str) -> Any:
        train = by_learning_rate(name)

        def counted(model: FLModel) -> FLModel:
            for entry, value in own.items():
                assert model.params[entry].dtype == value.dtype
                np.testing.assert_array_equal(model.params[entry], value)
            result = train(model)
            result.params |= {"counter": np.array(9.5), "flags": ~own["flags"], "small": own["small"] // 2}
            return result

        return counted

    for name, site in sites.items():
        site.trainer.train = counting(name)
    controller, model = Controller(sites), model_with(0.25, 0)
    model.params |= own
    before = model.params["bias"].copy()
    for number in range(4):
        controller.current_round = model.current_round = number
        model.meta = {"lr": 0.25}
        controller.send_model(data=model, targets=list(sites))
        model = controller.update_model(model, controller._get_aggregated_result())
        assert {name: (model.params[name].dtype, model.params[name].tolist()) for name in own} == {
            name: (value.dtype, value.tolist()) for name, value in own.items()
        }
    np.testing.assert_allclose(model.params["bias"], before + 4 * MEAN, atol=1e-4)
    assert controller.panics == []


def test_all_sites_are_told_the_meta_that_trainers_get(
    sites: dict[str, Site], caplog: pytest.LogCaptureFixture
) -> None:
    controller = Controller(sites)
    told: list[FLModel] = []
    train = sites["a"].trainer.train

    def looking(model: FLModel) -> Any:
        told.append(model)
        return train(model)

    sites["a"].trainer.train = looking
    controller.round_of(2, fedprox_mu=np.float32(0.5), name="x", nothing=None, nested={"a": 1}, weights=np.zeros(3))
    (model,) = told
    expected = {"lr": 0.25, "fedprox_mu": 0.5, "name": "x", "nothing": None}
    assert {name: model.meta[name] for name in expected} == expected
    assert not {"nested", "weights"} & model.meta.keys()
    assert "entries of the model's meta that are neither numbers nor texts: ['nested', 'weights']" in caplog.text
    assert (model.start_round, model.current_round, model.total_rounds) == (0, 2, 5)


def test_the_server_resolves_its_pattern_to_names(sites: dict[str, Site]) -> None:
    controller = Controller(sites, exclude_vars="^bi|count")
    assert set(controller.round_of(0).params) == {"weight"}
    assert controller.announced[0].encoding.excluded == ("bias", "counter")


def test_an_announcement_that_no_site_would_take_is_not_sent(sites: dict[str, Site]) -> None:
    controller = Controller(sites)
    controller.round_of(0, text="x" * (1 << 20))
    assert "sites take at most 1048576" in controller.panics[0]
    assert all(site.results == [] for site in sites.values())


@pytest.mark.parametrize(
    ("arguments", "num_sites", "threshold"),
    [
        ({}, 3, 2),
        ({"min_inputs": 3}, 3, 3),
        ({"min_inputs": 3}, 8, 5),
        ({"identity_id": "ids"}, 3, 3),
        ({"identity_id": "ids", "min_inputs": 2}, 3, 2),
    ],
)
def test_rounds_are_planned_as_sites_ask(
    sites: dict[str, Site], arguments: Any, num_sites: int, threshold: int
) -> None:
    params = Controller(sites, **arguments)._parameters(num_sites, 20, 24)
    assert params.threshold == threshold
    assert params.has_identities == ("identity_id" in arguments)
    assert params.is_complete


def test_rounds_that_sites_would_decline_are_not_opened(sites: dict[str, Site]) -> None:
    controller = Controller({name: sites[name] for name in ("a", "b")}, min_inputs=3)
    controller.round_of(0)
    assert "no round with 2 sites can be secure" in controller.panics[0]
    assert sites["a"].results == []


@pytest.mark.parametrize("arguments", [{"adversary": "kind"}, {"graph": "round"}, {"exclude_vars": "("}])
def test_invalid_arguments_are_refused(sites: dict[str, Site], arguments: Any) -> None:
    with pytest.raises(NVFlareJobError):
        Controller(sites, **arguments)

"""Bounds that follow the updates: the first round begins with a session that measures, and needs no tuning."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("nvflare", reason="needs NVFlare, which has its own environment: make test-nvflare")

import numpy as np
from nvflare.apis.dxo import MetaKey
from nvflare.app_common.abstract.fl_model import FLModel, ParamsType

from fl.integrations.nvflare.server_session import TaskReport
from secagg import Round
from tests.integrations.nvflare.loopback import LoopbackCourier, Site
from tests.integrations.nvflare.test_controller import Controller, spoil

SITES = ("a", "b", "c")
AUTOMATIC = {"clip": None, "max_steps": None, "metrics": []}
Changes = Mapping[str, Mapping[str, np.ndarray]]


class Job(Controller):
    """A job, and its current model."""

    def __init__(self, sites: dict[str, Site], params: dict[str, Any], **arguments: Any) -> None:
        super().__init__(sites, **(AUTOMATIC | arguments))
        self.model = FLModel(params=params, current_round=0, total_rounds=5)
        self.leaving: dict[bool, dict[str, tuple[Round, str]]] = {}

    def _run(self, announcement: Any, model: FLModel) -> TaskReport:
        self.announced.append(announcement)
        leaving = self.leaving.get(announcement.encoding.measures, {})
        courier = LoopbackCourier(announcement, model, self.sites, leaving=leaving)
        if self.spoil and announcement.encoding.measures:
            spoil(courier)
        return courier.run()

    def play(self, number: int) -> FLModel:
        """Play a round; return its average."""
        self.current_round = self.model.current_round = number
        self.send_model(data=self.model, targets=list(self.sites))
        return self._get_aggregated_result()

    @property
    def measuring(self) -> list[int]:
        """Return the rounds of the sessions that measured."""
        return [one.round for one in self.announced if one.encoding.measures]


def trainer(change: Mapping[str, Any], steps: int, *, is_difference: bool = False) -> Callable[[FLModel], FLModel]:
    def train(model: FLModel) -> FLModel:
        params = dict(model.params)
        for name, entry in change.items():
            params[name] = entry if is_difference else params[name] + entry
        kind = ParamsType.DIFF if is_difference else ParamsType.FULL
        return FLModel(params=params, params_type=kind, meta={MetaKey.NUM_STEPS_CURRENT_ROUND: steps})

    return train


def sites_that(folder: Path, changes: Changes, steps: Mapping[str, int], **arguments: Any) -> dict[str, Site]:
    return {name: Site(name, trainer(changes[name], steps[name]), folder, **arguments) for name in changes}


def plain_mean(changes: Changes, steps: Mapping[str, int], name: str) -> np.ndarray:
    weights = [float(steps[site]) for site in changes]
    return np.average([np.asarray(change[name], dtype=np.float64) for change in changes.values()], 0, weights)


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def normal(scale: float, *shape: int) -> dict[str, np.ndarray]:
    """Return the same change in all tests: of a size for each site."""
    rng = np.random.default_rng(7)
    return {site: rng.normal(scale=scale, size=shape) for site in SITES}


@pytest.mark.parametrize(("value_bits", "most"), [(None, 0.01), (16, 0.05)])
@pytest.mark.parametrize("steps", [1, 50, 10**6])
@pytest.mark.parametrize("size", [1e-1, 1e-4, 1e-6])
def test_the_first_average_is_the_plain_one(
    tmp_path: Path, size: float, steps: int, value_bits: int | None, most: float
) -> None:
    """It holds for all sizes of changes and steps, without options."""
    changes = {site: {"w": change} for site, change in normal(size, 40, 10).items()}
    weights = {site: steps * (1 + number) for number, site in enumerate(SITES)}
    sites = sites_that(tmp_path, changes, weights)
    job = Job(sites, {"w": np.zeros((40, 10))}, value_bits=value_bits)
    result = job.play(0)
    assert relative_error(result.params["w"], plain_mean(changes, weights, "w")) < most
    assert result.meta[MetaKey.NUM_STEPS_CURRENT_ROUND] == sum(weights.values())
    assert job.measuring == [0]
    assert len(job.announced) == 2
    assert [site.trainer.calls for site in sites.values()] == [1, 1, 1]


@pytest.mark.parametrize("excluded", [None, "running_var"])
def test_running_statistics_of_raw_columns_and_weights_in_one_model(tmp_path: Path, excluded: str | None) -> None:
    """Each entry has its own bound; frozen ones and counters stay exactly the same, in four rounds."""
    shapes = {"running_var": (8,), "weight": (16, 8), "lora.A": (4, 8), "frozen": (8, 8), "tracked": ()}
    sizes = {"running_var": 1e6, "weight": 1e-3, "lora.A": 1e-6, "frozen": 0.0}
    rng = np.random.default_rng(3)
    changes = {
        site: {name: rng.normal(scale=size, size=shapes[name]) for name, size in sizes.items()} | {"tracked": 5}
        for site in SITES
    }
    steps = {"a": 10, "b": 30, "c": 20}
    params = {name: rng.normal(size=shape) for name, shape in shapes.items()} | {"tracked": np.array(3)}
    job = Job(sites_that(tmp_path, changes, steps), params, exclude_vars=excluded)
    for number in range(4):
        before = dict(job.model.params)
        result = job.play(number)
        assert ("running_var" in result.params) == (excluded is None)
        for name in sizes.keys() & result.params.keys() - {"frozen"}:
            assert relative_error(result.params[name], plain_mean(changes, steps, name)) < 0.01
        job.model = job.update_model(job.model, result)
        np.testing.assert_array_equal(job.model.params["frozen"], before["frozen"])
        assert job.model.params["tracked"] == 3
    assert job.measuring == [0]
    assert job.panics == []
    assert all(site.trainer.calls == 4 for site in job.sites.values())


@pytest.mark.parametrize("measures", [True, False])
@pytest.mark.parametrize("round_", [Round.ADVERTISE_KEYS, Round.MASKED_INPUT_COLLECTION, Round.UNMASKING])
def test_a_site_that_leaves_one_of_the_two_sessions(tmp_path: Path, round_: Round, measures: bool) -> None:
    """One that was not measured trains for the update; one that was measured and has left is not in the mean."""
    changes = {site: {"w": change} for site, change in normal(1e-3, 40).items()}
    steps = {"a": 10, "b": 30, "c": 20}
    sites = sites_that(tmp_path, changes, steps)
    job = Job(sites, {"w": np.zeros(40)})
    job.leaving = {measures: {"b": (round_, "gone")}}
    result = job.play(0)
    is_in = measures or round_ is Round.UNMASKING
    expected = {site: change for site, change in changes.items() if is_in or site != "b"}
    assert relative_error(result.params["w"], plain_mean(expected, steps, "w")) < 0.01
    assert [site.trainer.calls for site in sites.values()] == [1, 1, 1]


def test_the_measured_update_is_sent(tmp_path: Path) -> None:
    """The trainer's arrays have changed since, and its metric and steps come with the update."""
    given: dict[str, FLModel] = {}

    def remembering(site: str, change: float) -> Callable[[FLModel], FLModel]:
        def train(model: FLModel) -> FLModel:
            for other in given.values():
                other.params["w"] += 5.0
            given[site] = FLModel(
                params={"w": model.params["w"] + np.float32(change)}, metrics={"accuracy": 0.5},
                meta={MetaKey.NUM_STEPS_CURRENT_ROUND: 10},
            )  # fmt: skip
            return given[site]

        return train

    sites = {site: Site(site, remembering(site, 0.01 * (1 + n)), tmp_path) for n, site in enumerate(SITES)}
    job = Job(sites, {"w": np.zeros(5, dtype=np.float32)}, metrics=["accuracy"])
    result = job.play(0)
    np.testing.assert_allclose(result.params["w"], 0.02, rtol=0.01)
    assert result.metrics == pytest.approx({"accuracy": 0.5}, abs=1e-5)
    assert all(site.executor._kept is None for site in sites.values())


@pytest.mark.parametrize("how", ["spoilt", "left"])
def test_an_aborted_measuring_aborts_the_round_and_counts_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    changes = {site: {"w": change} for site, change in normal(1e-3, 40).items()}
    changes["d"] = {"w": np.full(40, 1e-3)}
    steps = dict.fromkeys((*SITES, "d"), 10)
    sites = sites_that(tmp_path, changes, steps)
    job = Job(sites, {"w": np.zeros(40)}, max_failed_rounds=1)
    honest = {name: site.do for name, site in sites.items()}
    for number in range(2):
        assert job.panics == []
        if how == "spoilt":
            job.spoil = True
            sites["b"].do = honest["b"]  # type: ignore[method-assign]
        else:
            job.leaving = {True: dict.fromkeys(("a", "b", "c"), (Round.SHARE_KEYS, "fails"))}
        assert job.play(number).params == {}
        assert "the first session, which measures the updates, failed" in caplog.text
    assert job.measuring == [0, 1]
    assert len(job.announced) == 2
    assert "2 rounds in a row without a result" in job.panics[0]
    # The next round measures again, and is as good as any.
    job.spoil, job.leaving, job.panics = False, {}, []
    for name, site in sites.items():
        site.do = honest[name]  # type: ignore[method-assign]
    result = job.play(2)
    assert relative_error(result.params["w"], plain_mean(changes, steps, "w")) < 0.01
    assert job.measuring == [0, 1, 2]
    assert job.panics == []


def test_the_log_has_the_noise_and_what_helps(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    changes = {site: {"w": change, "big": np.full(3, 0.75)} for site, change in normal(1e-5, 40).items()}
    steps = {"a": 10, "b": 100, "c": 20}

    def said(level: str) -> list[str]:
        lines = [one.getMessage() for one in caplog.records if one.levelname == level and "controller" in one.name]
        caplog.clear()
        return lines

    def job(**arguments: Any) -> Job:
        params = {"w": np.zeros(40), "big": np.zeros(3)}
        return Job(sites_that(tmp_path, changes, steps), params, **arguments)

    job().play(0)
    assert said("WARNING") == []
    fixed = job(clip=0.25, max_steps=50, value_bits=8)
    fixed.play(0)
    assert fixed.measuring == []
    told = " ".join(one.getMessage() for one in caplog.records if "executor" in one.name)
    assert "this site made 100 steps and counts as one of 50" in told
    records = list(caplog.records)
    clipped, entry, cut = said("WARNING")
    assert clipped.startswith("round 0: 7% of all elements were clipped")
    assert entry == "round 0: entry 'big': 3 of 3 sites exceed 0.25; 1 would do"
    assert cut == "round 0: steps: 1 of 3 sites exceed 50; 200 would do; they count as the bound"
    (line,) = (one.getMessage() for one in records if "rounding noise" in one.getMessage())
    assert line.startswith("round 0: the sum of 3 of 3 sites")
    assert "% of the mean change" in line
    changes = {site: {"w": change, "big": np.zeros(3)} for site, change in normal(1e-4, 40).items()}
    job(clip=0.25, value_bits=8).play(0)
    (noise,) = said("WARNING")
    assert "of the mean change: leave out clip, or give more value_bits than 8" in noise


def test_fixed_bounds_measure_nothing(tmp_path: Path) -> None:
    changes = {site: {"w": change} for site, change in normal(0.1, 40).items()}
    steps = dict.fromkeys(SITES, 10)
    for fixed, measured in (({"clip": 2.0, "max_steps": 100}, []), ({"clip": 2.0}, [0]), ({"max_steps": 100}, [0])):
        job = Job(sites_that(tmp_path, changes, steps), {"w": np.zeros(40)}, **fixed)
        for number in range(2):
            result = job.play(number)
            assert relative_error(result.params["w"], plain_mean(changes, steps, "w")) < 0.01
        assert job.measuring == measured
        scales = job.announced[-1].encoding.scales
        assert scales is not None
        assert (scales.bounds == (2.0,)) == ("clip" in fixed)
        assert (scales.max_weight == 100) == ("max_steps" in fixed)


def test_another_model_is_measured_anew(tmp_path: Path) -> None:
    changes = {site: {"w": change} for site, change in normal(0.1, 40).items()}
    job = Job(sites_that(tmp_path, changes, dict.fromkeys(SITES, 10)), {"w": np.zeros(40)})
    job.play(0)
    job.model.params = {"w": np.zeros((1, 40))}
    job.play(1)
    assert job.measuring == [0, 1]

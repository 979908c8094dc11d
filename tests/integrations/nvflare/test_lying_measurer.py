"""A server that lies about its measurements: a round has at most one measuring answer, and then one update to it."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("nvflare", reason="needs NVFlare, which has its own environment: make test-nvflare")

from nvflare.app_common.abstract.fl_model import FLModel
from nvflare.fuel.utils import fobs

from fl.integrations.nvflare import messages
from fl.integrations.nvflare.model_encoding import as_model
from secagg import Aborted, Adversary, Completed, Round, plan
from tests.integrations.nvflare.cohort import SITES, VICTIM, Cohort, mean_change, model_with
from tests.integrations.nvflare.loopback import LoopbackCourier, Site, announce, encoding

SIGNED = pytest.mark.parametrize("adversary", [Adversary.MALICIOUS, Adversary.SEMI_MALICIOUS])
MEAN = 0.25 * 2.5


@pytest.fixture
def cohort(tmp_path: Path) -> Cohort:
    return Cohort(tmp_path)


class Server:
    """A server that may open any session with the sites."""

    def __init__(self, cohort: Cohort, adversary: Adversary) -> None:
        self.cohort, self.adversary = cohort, adversary
        self.sessions = 0
        self.restart()

    def restart(self) -> None:
        """Restart the sites' processes; their records stay on the disk."""
        self.sites = self.cohort.sites(adversary=self.adversary.value, min_inputs=3)

    def session(
        self, round_: int = 3, *, measures: bool = False, rate: float = 0.25, without: str = "", **announced: Any
    ) -> tuple[LoopbackCourier, Any]:
        self.sessions += 1
        sites = {name: site for name, site in self.sites.items() if name != without}
        model = model_with(rate, round_)
        chosen = encoding(**({"scales": None} if measures else {}))
        length = dataclasses.replace(chosen, num_sites=len(sites)).vector_length(as_model(model.params))
        # The sites' defaults, for any number of them.
        params = plan(
            num_clients=len(sites), vector_length=length, value_bits=24, adversary=self.adversary, threshold=3
        )
        arguments = {"encoding": chosen, "params": params.parameters, "nonce": b"%d" % self.sessions} | announced
        courier = LoopbackCourier(announce(model, sites, self.adversary, **arguments), model, sites)
        directory = self.cohort.directory(tuple(sites)) if self.adversary is Adversary.MALICIOUS else None
        return courier, courier.run(directory=directory).outcome

    def measures(self, round_: int = 3, **arguments: Any) -> bool:
        """Return whether sites allow the measurement."""
        courier, outcome = self.session(round_, measures=True, **arguments)
        if isinstance(outcome, Aborted):
            return False
        assert isinstance(outcome, Completed)
        announced = courier.announcement.encoding
        ranges = announced.decode_ranges(outcome.sum, len(outcome.included), as_model(courier.model.params))
        assert ranges.votes.tolist() == [len(courier.sites)] * 3
        return True

    def sums(self, round_: int = 3, **arguments: Any) -> bool:
        """Return whether sites send their updates."""
        courier, outcome = self.session(round_, **arguments)
        if isinstance(outcome, Aborted):
            return False
        if not arguments:
            assert mean_change(courier, outcome) == pytest.approx(MEAN, abs=1e-5)
        return True

    @property
    def trained(self) -> list[int]:
        return [site.trainer.calls for site in self.sites.values()]


@SIGNED
@pytest.mark.parametrize("restarts", [False, True])
def test_the_honest_round_measures_and_sums(cohort: Cohort, adversary: Adversary, restarts: bool) -> None:
    server = Server(cohort, adversary)
    for round_ in (0, 3, 5):
        assert server.measures(round_)
        trained = server.trained
        if restarts:
            server.restart()
        assert server.sums(round_)
        assert server.trained == ([1] * len(SITES) if restarts else trained)
        # Rounds that need no measuring.
        assert server.sums(round_ + 1)
        server.restart()


@SIGNED
@pytest.mark.parametrize("restarts", [False, True])
@pytest.mark.parametrize("without", ["", VICTIM])
def test_nobody_is_measured_twice(cohort: Cohort, adversary: Adversary, without: str, restarts: bool) -> None:
    """The difference of two, one without the victim, would show how large the victim's update is."""
    server = Server(cohort, adversary)
    assert server.measures(3)
    if restarts:
        server.restart()
    before = server.trained
    assert not server.measures(3, without=without)
    assert not server.measures(2)
    assert server.trained == before
    assert server.sums(3)


@SIGNED
def test_nobody_is_measured_after_the_update(cohort: Cohort, adversary: Adversary) -> None:
    server = Server(cohort, adversary)
    assert server.sums(3)
    before = server.trained
    for round_ in (3, 2):
        assert not server.measures(round_)
    assert server.trained == before
    assert server.measures(4)
    assert server.sums(4)


@SIGNED
@pytest.mark.parametrize(
    "changed", [{"rate": 0.5}, {"without": VICTIM}, {"total_rounds": 9}, {"model_digest": bytes(32)}], ids=str
)
@pytest.mark.parametrize("measured_since", [None, 4])
def test_no_update_to_another_content_than_was_measured(
    cohort: Cohort, adversary: Adversary, changed: dict[str, Any], measured_since: int | None
) -> None:
    """Nor when a later round was measured meanwhile."""
    server = Server(cohort, adversary)
    assert server.measures(3)
    if measured_since is not None:
        assert server.measures(measured_since)
    server.restart()
    assert not server.sums(3, **changed)
    assert server.trained == [0] * len(SITES)
    # The measured update may be sent.
    assert server.sums(3)


@SIGNED
def test_each_round_gets_one_update_for_any_measurements(cohort: Cohort, adversary: Adversary) -> None:
    server = Server(cohort, adversary)
    assert server.measures(3)
    assert server.sums(3)
    before = server.trained
    assert not server.sums(3)
    assert not server.sums(3, without=VICTIM)
    assert server.trained == before


@pytest.mark.parametrize("changed", [{"rate": 0.5}, {"total_rounds": 9}], ids=str)
def test_a_kept_update_is_used_only_for_its_content(tmp_path: Path, changed: dict[str, Any]) -> None:
    """Also without a record: the trainer is asked again, and the kept update is gone."""

    def train(model: FLModel) -> FLModel:
        change = (model.meta or {})["lr"] * (1 + model.total_rounds)
        return FLModel(params={name: model.params[name] + change for name in ("weight", "bias")})

    sites = {name: Site(name, train, tmp_path) for name in SITES}
    model = model_with(0.25)

    def session(number: int, measures: bool, **other: Any) -> LoopbackCourier:
        asked = model_with(other.pop("rate", 0.25))
        chosen = encoding(**({"scales": None} if measures else {"clip": 8.0}))
        announced = announce(asked, sites, encoding=chosen, nonce=b"%d" % number, **other)
        courier = LoopbackCourier(announced, asked, sites)
        outcome = courier.run().outcome
        assert isinstance(outcome, Completed)
        if not measures:
            expected = asked.meta["lr"] * (1 + announced.total_rounds)
            assert mean_change(courier, outcome) == pytest.approx(expected, abs=1e-4)
        return courier

    session(1, measures=True)
    assert all(site.executor._kept is not None for site in sites.values())
    session(2, measures=False, **changed)
    assert all(site.executor._kept is None for site in sites.values())
    session(3, measures=False)
    assert [site.trainer.calls for site in sites.values()] == [3] * len(SITES)
    session(4, measures=True)
    # Opening another round is enough.
    model.current_round = 4
    data = fobs.dumps(messages.announcing(announce(model, sites).to_bytes()))
    assert messages.take_message(sites[VICTIM].do(messages.TASKS[Round.ADVERTISE_KEYS], data)) is not None
    assert sites[VICTIM].executor._kept is None


def test_an_announcement_with_another_models_bounds_is_declined(tmp_path: Path) -> None:
    """The server gets the reason, before anybody trains."""
    sites = {name: Site(name, lambda model: model, tmp_path) for name in SITES}
    model = model_with(0.25)
    courier = LoopbackCourier(
        announce(model, sites, encoding=encoding(num_entries=2)), model, sites,
    )  # fmt: skip
    wrong = encoding(num_entries=3, num_sites=len(SITES))
    object.__setattr__(courier.announcement, "encoding", wrong)
    report = courier.run()
    assert isinstance(report.outcome, Aborted)
    assert set(report.reasons.values()) == {
        "the round was announced with 3 clipping bounds, and the model has 2 entries that are averaged"
    }
    assert [site.trainer.calls for site in sites.values()] == [0] * len(SITES)

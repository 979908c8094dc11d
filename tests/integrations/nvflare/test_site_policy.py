"""The demands of sites on a session before they take part, and the requests that they refuse to a server."""

import logging
from pathlib import Path
from typing import Any

import msgpack
import pytest

pytest.importorskip("nvflare", reason="needs NVFlare, which has its own environment: make test-nvflare")

from nvflare.fuel.utils import fobs

from fl.integrations.nvflare import messages
from fl.integrations.nvflare.announcement import TaskAnnouncement
from fl.integrations.nvflare.model_encoding import as_model
from secagg import Adversary, Completed, Parameters, Round
from tests.integrations.nvflare.cohort import (
    SITES,
    VICTIM,
    Cohort,
    assert_ends_well,
    by_learning_rate,
    courier_of,
    model_with,
)
from tests.integrations.nvflare.loopback import LoopbackCourier, Site, announce, encoding, initial_model


@pytest.fixture
def cohort(tmp_path: Path) -> Cohort:
    return Cohort(tmp_path)


def sparse() -> Parameters:
    """Return a ring of all clients: each has two neighbours."""
    length = encoding().vector_length(as_model(initial_model().params))
    return Parameters(
        num_clients=4, threshold=2, degree=2, vector_length=length, value_bits=24, ring_bits=26,
        adversary=Adversary.MALICIOUS,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("params", "reason"),
    [
        ({"names": ("a", "b", "c"), "threshold": 2}, "the sum could contain only 2 inputs, but this client asks for 3"),
        ({"adversary": Adversary.HONEST_BUT_CURIOUS}, "asks for malicious mode"),
        ({"adversary": Adversary.SEMI_MALICIOUS}, "asks for malicious mode"),
        ("sparse", "a sparse graph"),
    ],
)
def test_sites_with_identities_ask_for_safety_unless_told_otherwise(
    cohort: Cohort, params: Any, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    sites, model = cohort.sites(), model_with(0.25)
    other = {"announced": {"params": sparse()}} if params == "sparse" else dict(params)
    names = other.pop("names", SITES)
    lie = courier_of({name: sites[name] for name in names}, model, **other).announcement
    data = fobs.dumps(messages.announcing(lie.to_bytes()))
    refused = sites[VICTIM].do(messages.TASKS[Round.ADVERTISE_KEYS], data)
    assert messages.take_message(refused) is None
    # The server announced it: it may learn the fault.
    assert reason in messages.refusal_reason(refused)
    assert reason in caplog.text
    assert_ends_well(cohort, courier_of(sites, model, announced={"nonce": b"another"}))


@pytest.mark.parametrize("adversary", [Adversary.HONEST_BUT_CURIOUS, Adversary.SEMI_MALICIOUS])
def test_a_site_that_believes_the_server_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, adversary: Adversary
) -> None:
    sites = {name: Site(name, by_learning_rate(name), tmp_path) for name in SITES}
    model = model_with(0.25)
    with caplog.at_level(logging.WARNING):
        report = LoopbackCourier(announce(model, sites, adversary), model, sites).run()
    assert isinstance(report.outcome, Completed)
    warned = [record for record in caplog.records if "follows the protocol" in record.getMessage()]
    assert len(warned) == (len(SITES) if adversary is Adversary.HONEST_BUT_CURIOUS else 0)


def test_names_are_not_patterns_on_sites(cohort: Cohort) -> None:
    """A server's regular expression could keep a site busy for years; entries are only compared by name."""
    sites, model = cohort.sites(), model_with(0.25)
    announced = {"encoding": encoding(excluded=("(b+)+$", "b.*", "weigh."))}
    assert_ends_well(cohort, courier_of(sites, model, announced=announced))


def test_announcements_of_the_version_with_patterns_are_refused(cohort: Cohort) -> None:
    honest = courier_of(cohort.sites(), model_with(0.25)).announcement
    _, job, (round_, *_), _, who, params, (*numbers, _), digest, nonce, _ = msgpack.unpackb(honest.to_bytes())
    old = msgpack.packb((1, job, round_, who, params, (*numbers, "(x+)+$"), digest, nonce))
    refused = cohort.sites()["a"].do(messages.TASKS[Round.ADVERTISE_KEYS], fobs.dumps(messages.announcing(old)))
    assert refused == messages.refusal()
    assert TaskAnnouncement.from_bytes(honest.to_bytes()) == honest

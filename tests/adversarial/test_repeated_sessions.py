"""A server that asks a client to take part twice: in one session, or in one round, over the hosts' frames."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

import secagg
from secagg import Adversary, Completed
from tests.support.sessions import any_session, directory_of, identity_of, make_params
from tests.transport.hosts import run_to_the_end
from tests.transport.link_world import DEADLINES
from transport import ClientHost, ClientJournal, ClientRecord, Participation, RefusalCode, RepeatedSessionError
from transport.durable import frames as link
from transport.durable.server_host import SessionHost

NUM_CLIENTS, VICTIM = 5, 4
PARAMS = make_params(NUM_CLIENTS, 4, vector_length=6, adversary=Adversary.MALICIOUS)
CONTEXT = b"model"
INPUTS = {i: np.arange(6) + 10 * i for i in range(NUM_CLIENTS)}


@dataclass
class Site:
    """A client's machine: what it keeps between sessions."""

    folder: Path
    client_id: int

    def host(self, *, journal: bool = False) -> ClientHost:
        """Return the client's host in a process that has just been started."""
        identity = identity_of(self.client_id)
        self.folder.mkdir(exist_ok=True)
        return ClientHost(
            self.client_id,
            lambda offer: INPUTS[self.client_id],
            accept=any_session,
            context=CONTEXT,
            identity=identity,
            directory=directory_of(range(NUM_CLIENTS)),
            journal=ClientJournal(self.folder / "journal", self.folder / "key") if journal else None,
            record=ClientRecord(
                Participation.in_folder(self.folder / "state"), identity.public_key, training="mnist", max_rounds=3
            ),
        )


@pytest.fixture
def sites(tmp_path) -> dict[int, Site]:
    return {i: Site(tmp_path / str(i), i) for i in range(NUM_CLIENTS)}


def served(number: int, nonce: bytes | None = None) -> SessionHost:
    """Return a session of round ``number``."""
    return SessionHost(
        PARAMS,
        range(NUM_CLIENTS),
        deadlines=DEADLINES,
        now=0.0,
        context=CONTEXT,
        number=number,
        nonce=nonce,
        directory=directory_of(range(NUM_CLIENTS)),
    )


def exact(host: SessionHost) -> bool:
    assert isinstance(host.outcome, Completed)
    return host.outcome.sum.tolist() == sum(INPUTS[i] for i in host.outcome.included).tolist()


def offered(client: ClientHost, number: int, nonce: bytes) -> list:
    client.connected()
    return client.frame_received(b"".join(link.encode(link.Offer(PARAMS, nonce, b"", number))))


def test_a_round_that_was_answered_is_not_answered_without_the_victim(sites) -> None:
    """Two sums that differ in one client reveal that client's input."""
    first = served(3)
    run_to_the_end(first, {i: site.host() for i, site in sites.items()})
    assert exact(first)
    assert len(first.outcome.included) == NUM_CLIENTS

    others = [i for i in sites if i != VICTIM]
    clients = {i: sites[i].host() for i in others}
    for client in clients.values():
        assert offered(client, 3, b"another nonce") == []
        assert isinstance(client.error, RepeatedSessionError)
        assert "round 3 was offered, but this client has answered round 3" in str(client.error)

    later = served(4)
    run_to_the_end(later, {i: site.host() for i, site in sites.items()})
    assert exact(later)
    assert len(later.outcome.included) == NUM_CLIENTS


def test_a_deleted_journal_does_not_bring_a_round_back(sites) -> None:
    first = served(1)
    clients = {i: site.host(journal=True) for i, site in sites.items()}
    run_to_the_end(first, clients)
    assert exact(first)
    for site in sites.values():
        for file in site.folder.glob("journal*"):
            file.unlink()
        client = site.host(journal=True)
        assert offered(client, 1, b"another") == []
        assert isinstance(client.error, RepeatedSessionError)


def test_a_round_whose_session_ended_before_shares_went_out_may_be_repeated(sites) -> None:
    for site in sites.values():
        client = site.host()
        assert offered(client, 2, b"given up")
        client.frame_received(b"".join(link.encode(link.Refused(RefusalCode.DROPPED, "try again"))))
    again = served(2)
    run_to_the_end(again, {i: site.host() for i, site in sites.items()})
    assert exact(again)


def test_no_session_is_entered_twice_with_one_identity(sites) -> None:
    """Neither a host that was dropped enters again, nor a process that was restarted and has lost its journal."""
    site = sites[0]
    client = site.host(journal=True)
    assert offered(client, 1, b"one nonce")
    client.frame_received(b"".join(link.encode(link.Refused(RefusalCode.DROPPED, "try again"))))
    for _ in range(2):
        again = site.host(journal=True)
        assert offered(again, 1, b"one nonce") == []
        assert isinstance(again.error, RepeatedSessionError)
        assert "in this session before" in str(again.error)
    # The same clients in another session end as they should.
    other = served(1, nonce=b"another nonce")
    run_to_the_end(other, {i: site.host() for i, site in sites.items()})
    assert exact(other)


def test_without_a_record_a_host_remembers_in_its_process() -> None:
    def host() -> ClientHost:
        return ClientHost(
            0,
            lambda offer: INPUTS[0],
            accept=any_session,
            context=b"only of this test",
            identity=identity_of(0),
            directory=directory_of(range(NUM_CLIENTS)),
        )

    assert offered(host(), 1, b"one nonce")
    again = host()
    assert offered(again, 1, b"one nonce") == []
    assert isinstance(again.error, RepeatedSessionError)
    assert offered(host(), 1, b"another nonce")


def test_the_shares_stay_here_if_another_process_answered_the_round_meanwhile(sites) -> None:
    session = served(1)
    clients = {i: site.host() for i, site in sites.items()}
    victim = clients[VICTIM]
    answered, released = victim._answered, []

    def answered_elsewhere_first(messages):
        if victim._client.phase is secagg.ClientPhase.FINISHED:
            released.extend(messages)
            sites[VICTIM].host()._record.answer(b"the session of the other process", 1)
        return answered(messages)

    victim._answered = answered_elsewhere_first
    run_to_the_end(session, clients)
    assert released, "the victim was asked for its shares"
    assert isinstance(victim.error, RepeatedSessionError)
    # Its masked input was in by then, and the others are enough to unmask the sum.
    assert exact(session)
    assert VICTIM in session.outcome.included


def test_a_budget_of_rounds_is_the_clients(sites) -> None:
    for number in (1, 2, 3):
        host = served(number)
        run_to_the_end(host, {i: site.host() for i, site in sites.items()})
        assert exact(host)
    client = sites[0].host()
    assert offered(client, 4, b"nonce") == []
    assert "has answered 3 rounds of 'mnist', and its budget is 3" in str(client.error)

"""The drivers: deadlines are kept, no client is waited for in vain, and bad bytes cost only their sender."""

from functools import partial
from typing import Any

import numpy as np
import pytest

import secagg
from secagg import Client, ClientPhase, Completed, DropReason, Round, Server
from tests.support.sessions import exact_sum, make_params, random_inputs
from transport import ClientDriver, Deadlines, InputWithheldError, ServerDriver

DEADLINES = Deadlines(advertise_keys=10, share_keys=20, masked_input_collection=30, unmasking=40)


class Session:
    """A server's driver and its clients', with messages delivered by the test."""

    def __init__(self, num_clients: int = 4, threshold: int = 2, noise_components: int = 0) -> None:
        self.params = make_params(num_clients, threshold, noise_components=noise_components)
        self.inputs = random_inputs(self.params, seed=1)
        self.server = ServerDriver(Server(self.params), DEADLINES)
        self.clients = {
            i: ClientDriver(Client(self.params, i), partial(self.inputs.__getitem__, i)) for i in self.inputs
        }
        self.server.start(now=0.0)

    def answers(self, deliveries) -> list[tuple[int, Any]]:
        return [(i, reply) for i, data in deliveries for reply in self.clients[i].data_received(data)]

    def hand_in(self, answers, now: float):
        deliveries = []
        for client_id, data in answers:
            deliveries += self.server.data_received(client_id, b"".join(data), now)
        return deliveries


def test_a_session_without_losses_never_waits_for_a_deadline() -> None:
    session = Session()
    answers = [(i, data) for i, client in session.clients.items() for data in client.start()]
    for _ in Round:
        answers = session.answers(session.hand_in(answers, now=1.0))
    assert session.server.job is not None
    session.server.finish(session.server.job.run(), now=2.0)
    assert isinstance(session.server.outcome, Completed)
    assert session.server.outcome.sum.tolist() == exact_sum(session.params, session.inputs.values())
    assert all(client.finished and client.error is None for client in session.clients.values())


def test_a_round_is_closed_at_its_deadline_and_not_before() -> None:
    session = Session()
    session.hand_in([(i, data) for i in (0, 1) for data in session.clients[i].start()], now=1.0)
    assert session.server.deadline == 10
    assert session.server.tick(9.99) == []
    assert session.server.round is Round.ADVERTISE_KEYS
    deliveries = session.server.tick(10.0)
    assert [client_id for client_id, _ in deliveries] == [0, 1]
    assert session.server.round is Round.SHARE_KEYS
    assert session.server.deadline == 10 + 20
    assert {i: drop.reason for i, drop in session.server.dropped.items()} == dict.fromkeys((2, 3), DropReason.DEADLINE)


def test_a_session_that_nobody_joins_aborts_at_the_first_deadline() -> None:
    session = Session()
    assert session.server.tick(10.0) == []
    assert isinstance(session.server.outcome, secagg.Aborted)
    assert session.server.outcome.missing == (0, 1, 2, 3)
    assert session.server.deadline is None


def test_invalid_bytes_drop_only_their_sender() -> None:
    session = Session()
    assert session.server.data_received(3, b"\x00garbage", now=1.0) == []
    assert session.server.dropped[3].reason is DropReason.MALFORMED
    answers = [(i, data) for i in (0, 1, 2) for data in session.clients[i].start()]
    deliveries = session.hand_in(answers, now=2.0)
    # Only the last of the remaining clients was still missing.
    assert sorted(client_id for client_id, _ in deliveries) == [0, 1, 2]


def test_the_last_one_missing_disconnects_and_the_round_closes_at_once() -> None:
    session = Session()
    session.hand_in([(i, data) for i in (0, 1, 2) for data in session.clients[i].start()], now=1.0)
    deliveries = session.server.drop(3, now=1.5)
    assert sorted(client_id for client_id, _ in deliveries) == [0, 1, 2]
    assert session.server.dropped[3].reason is DropReason.DISCONNECTED


def test_unknown_clients_are_noted_and_change_nothing() -> None:
    session = Session()
    stranger = ClientDriver(Client(session.params, 77), lambda: np.zeros(10, np.uint8))
    session.hand_in([(77, data) for data in stranger.start()], now=1.0)
    assert session.server.unknown_messages == 1
    assert session.server.drop(78, now=1.0) == []
    assert session.server.data_received(79, b"garbage", now=1.0) == []
    assert session.server.unknown_messages == 3
    assert session.server.dropped == {}


def test_one_message_for_all_is_encoded_once() -> None:
    session = Session()
    deliveries = session.hand_in([(i, data) for i, c in session.clients.items() for data in c.start()], now=1.0)
    assert len({id(data) for _, data in deliveries}) == 1


@pytest.mark.parametrize("data", [b"", b"\x90", b"\xff" * 40])
def test_a_client_whose_server_sends_garbage_gives_up_and_says_why(data: bytes) -> None:
    params = make_params()
    machine = Client(params, 0)
    driver = ClientDriver(machine, lambda: pytest.fail("no input is due"))
    driver.start()
    assert driver.data_received(data) == []
    assert isinstance(driver.error, secagg.CodecError)
    assert driver.finished
    assert machine.phase is ClientPhase.ABORTED
    assert driver.data_received(data) == []


def test_a_client_whose_server_breaks_a_rule_gives_up_and_names_it() -> None:
    params = make_params()
    driver = ClientDriver(Client(params, 0), lambda: pytest.fail("no input is due"))
    driver.start()
    other_session = secagg.messages.SurvivorList(bytes(32), (True,) * 5)
    assert driver.data_received(secagg.encode(other_session, params)) == []
    assert isinstance(driver.error, secagg.RemoteProtocolError)
    assert driver.error.rule is secagg.Rule.WRONG_SESSION


@pytest.mark.parametrize("name", [f"{round_.name.lower()}" for round_ in Round])
def test_deadlines_are_positive(name: str) -> None:
    with pytest.raises(ValueError, match="above 0 seconds"):
        Deadlines(**{name: 0.0})


def test_a_client_that_withholds_its_input_leaves_and_says_why_to_its_host_only() -> None:
    session = Session()

    def withhold() -> np.ndarray:
        raise InputWithheldError("the update is not finite")

    session.clients[2] = ClientDriver(Client(session.params, 2), withhold)
    answers = [(i, data) for i, client in session.clients.items() for data in client.start()]
    for _ in range(2):
        answers = session.answers(session.hand_in(answers, now=1.0))
    assert [client_id for client_id, _ in answers] == [0, 1, 3]
    assert str(session.clients[2].error) == "the update is not finite"
    assert session.clients[2].finished
    deliveries = session.hand_in(answers, now=2.0) + session.server.drop(2, now=2.0)
    session.hand_in(session.answers(deliveries), now=3.0)
    assert session.server.job is not None
    session.server.finish(session.server.job.run(), now=4.0)
    assert isinstance(session.server.outcome, Completed)
    assert session.server.outcome.included == (0, 1, 3)


def test_an_input_may_be_made_from_the_keys_of_noise_components() -> None:
    session, keys = Session(noise_components=3), {}

    def made(client_id: int, given: tuple[bytes, ...]) -> np.ndarray:
        keys[client_id] = given
        return session.inputs[client_id]

    session.clients = {i: ClientDriver(Client(session.params, i), lambda i=i: partial(made, i)) for i in session.inputs}
    answers = [(i, data) for i, client in session.clients.items() for data in client.start()]
    for _ in Round:
        answers = session.answers(session.hand_in(answers, now=1.0))
    assert session.server.job is not None
    session.server.finish(session.server.job.run(), now=2.0)
    assert isinstance(session.server.outcome, Completed)
    assert session.server.outcome.sum.tolist() == exact_sum(session.params, session.inputs.values())
    assert session.server.outcome.noise_keys == {
        component: {i: keys[i][component - 1] for i in keys} for component in (1, 2, 3)
    }

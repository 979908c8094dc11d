"""The order of training: clients that are due first, and never more than fit into memory."""

from __future__ import annotations

from fl.engines.outlook import Outlook, updates_kept
from tests.fl.engines.workers import make_worker


def everything_ahead(outlook: Outlook) -> list[int]:
    ahead = []
    while (client_id := outlook.next()) is not None:
        ahead.append(client_id)
    return ahead


def test_clients_that_all_fit_are_trained_before_anything_is_announced() -> None:
    assert everything_ahead(Outlook((4, 2, 9), capacity=3)) == [4, 2, 9]


def test_clients_that_do_not_fit_wait_until_they_are_announced() -> None:
    outlook = Outlook((4, 2, 9), capacity=2)
    assert everything_ahead(outlook) == []
    outlook.announce(9, due=2.0)
    outlook.announce(4, due=1.0)
    outlook.announce(2, due=0.5)
    assert everything_ahead(outlook) == [2, 4]
    outlook.handed_over(2)
    assert everything_ahead(outlook) == [9]


def test_announced_clients_go_before_guesses_and_nobody_is_trained_twice() -> None:
    outlook = Outlook((1, 2, 3), capacity=8)
    outlook.announce(3, due=1.0)
    assert outlook.next() == 3
    outlook.begin(2)
    outlook.announce(2, due=0.1)
    assert everything_ahead(outlook) == [1]
    outlook.handed_over(3)
    assert everything_ahead(outlook) == []


def test_a_requested_client_is_trained_even_without_room() -> None:
    outlook = Outlook((), capacity=1)
    outlook.announce(5, due=1.0)
    assert outlook.next() == 5
    outlook.begin(6)
    assert outlook.begun(6)
    assert outlook.next() is None
    outlook.handed_over(6)
    outlook.announce(7, due=2.0)
    assert outlook.next() is None, "5 is still kept"


def test_a_client_that_was_handed_over_can_be_asked_for_again() -> None:
    outlook = Outlook((1,), capacity=1)
    assert outlook.next() == 1
    outlook.handed_over(1)
    assert not outlook.begun(1)


def test_the_room_is_for_256_mebibytes_of_updates() -> None:
    worker = make_worker(model="2nn")
    size = sum(parameter.numel() for parameter in worker.model.parameters())
    assert updates_kept(worker, at_least=1) == (256 << 20) // (4 * size)
    assert updates_kept(worker, at_least=10**6) == 10**6

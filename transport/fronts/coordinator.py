"""A session whose clients are at fronts: the machine, its journal, the deadlines and the leases.

It is a `SessionHost` that speaks with fronts instead of clients: all that makes a session safe against crashes is the
same, and so is its journal. Nothing leaves before `commit` has made durable what led to it.
"""

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from itertools import islice
from typing import TypeAlias

from secagg import ClientId, DropReason, LocalProtocolError, Round, rounds_of
from transport.driver import Deadlines, Delivery
from transport.durable.conversations import Conversations
from transport.durable.frames import Offer
from transport.durable.links import Counters, Link
from transport.durable.memory_budget import Room
from transport.durable.partial_sums import PartialSum
from transport.durable.replayed_machine import RecordedMachine
from transport.durable.server_host import SessionHost
from transport.durable.server_journal import Journal
from transport.fronts import items
from transport.fronts.items import Down, Up
from transport.fronts.leases import Lease, Leases

logger = logging.getLogger("transport.fronts")

HAND_OVER_SECONDS = 3.0
"""Seconds for which the closing of the masked inputs waits for the fronts' last partial sums."""

_ROUND_OFF = 1.0

ToFront: TypeAlias = tuple[str, Down]
"""A front's name, and what to tell it."""


@dataclass(slots=True)
class _Front:
    """The coordinator's view of a front: its process, whether it can be reached, and its last figures."""

    incarnation: str
    is_up: bool = True
    figures: items.Figures = field(default_factory=lambda: items.Figures(Counters(), 0, 0))


class _AtFronts(Conversations):
    """The state of clients whose conversations are at fronts, and what the fronts have to know."""

    def __init__(self, machine: RecordedMachine, offer: Offer, client_ids: tuple[ClientId, ...], room: Room) -> None:
        super().__init__(machine, offer, client_ids, room)
        self.fronts: dict[str, _Front] = {}
        self.leases = Leases()
        self.to_fronts: list[ToFront] = []
        self.now = 0.0
        self._lost = Counters()
        self._opened: tuple[Round, float | None] | None = None

    @property
    def up(self) -> list[str]:
        """Return the names of the fronts that can be reached."""
        return [name for name, front in self.fronts.items() if front.is_up]

    def admit(self, now: float) -> None:
        """Do nothing: the fronts hold the messages that arrive."""

    def settle(self, deliveries: list[Delivery]) -> None:
        """Turn the machine's messages, drops and end into words for the fronts."""
        machine = self._machine
        if self._opened is not None and machine.round is not self._opened[0]:
            self.tell_round()
        for client_id, data in deliveries:
            link = self.links[client_id]
            link.sent, link.unanswered = link.sent + 1, data
            self.tell_front_of(client_id, items.Forward(client_id, link.sent, data))
        if len(machine.dropped) > self._drops_told:
            for drop in islice(machine.dropped.values(), self._drops_told, None):
                self.links[drop.client_id].unanswered = None
                self.tell_all(items.Dropped(drop))
            self._drops_told = len(machine.dropped)
        if machine.end is not None and not self._ended:
            self._ended = True
            self.tell_all(items.SessionEnded(machine.end))

    def tell_round(self) -> None:
        """Tell the open round and its deadline, if fronts have another idea of them."""
        opened, known = (self._machine.round, self._machine.deadline), self._opened
        if known is not None and known[0] is opened[0]:
            moved = None if known[1] is None or opened[1] is None else abs(known[1] - opened[1])
            if known == opened or (moved is not None and moved < _ROUND_OFF):
                return
        self._opened = opened
        self.tell_all(self.opened())

    def opened(self) -> items.Opened:
        """Return the word on the open round."""
        deadline = self._machine.deadline
        return items.Opened(self._machine.round, None if deadline is None else max(0.0, deadline - self.now))

    def tell_all(self, item: Down) -> None:
        """Tell all fronts that can be reached."""
        self.to_fronts += [(name, item) for name in self.up]

    def tell(self, name: str, item: Down) -> None:
        """Tell a front, if it can be reached."""
        if self.fronts[name].is_up:
            self.to_fronts.append((name, item))

    def tell_front_of(self, client_id: ClientId, item: Down) -> None:
        """Tell the front of a client."""
        if (lease := self.leases.of(client_id)) is not None:
            self.tell(lease.front, item)

    def grant(self, lease: Lease) -> None:
        """Grant a lease, with the client's state."""
        link = self.links[lease.client_id]
        link.connection = 1
        digests = tuple(link.digests)
        granted = items.Granted(lease.client_id, lease.number, digests, link.sent, link.unanswered, link.told)
        self.tell(lease.front, granted)

    def revoke(self, lease: Lease) -> None:
        """Tell a front that a client is elsewhere."""
        is_final = self.leases.is_restless(lease.client_id)
        self.tell(lease.front, items.Revoked(lease.client_id, lease.number, is_final))

    def count(self) -> None:
        """Add up the fronts' counts."""
        commits = self.counters.commits
        counts = [self._lost, *(front.figures.counters for front in self.fronts.values())]
        for one in fields(Counters):
            values = [getattr(counters, one.name) for counters in counts]
            setattr(self.counters, one.name, sum(values[1:], values[0]))
        self.counters.commits = commits

    def forget_front(self, name: str) -> int:
        """End a front's leases, since its process has ended; return the number of inputs that were lost with it."""
        front = self.fronts.pop(name)
        for one in fields(Counters):
            value = getattr(self._lost, one.name) + getattr(front.figures.counters, one.name)
            setattr(self._lost, one.name, value)
        for client_id in self.leases.at(name):
            self.links[client_id].connection = 0
        for lease in self.leases.lost(name):
            self.grant(lease)
        return front.figures.held


class Coordinator(SessionHost):
    """One session whose clients are at fronts; made, resumed and closed like `SessionHost`.

    ::

        coordinator.front_up("a", process_id, now)          # a channel to a front is open
        coordinator.items_received("a", items, now)         # its words, in order
        for name, item in coordinator.commit(now): ...      # tell the fronts, in order
        coordinator.front_down("a", now)                    # the channel broke; its process may live
    """

    _conversations: _AtFronts

    def _set_up(
        self,
        machine: RecordedMachine,
        offer: Offer,
        client_ids: tuple[ClientId, ...],
        journal: Journal | None,
        deadlines: Deadlines,
    ) -> None:
        super()._set_up(machine, offer, client_ids, journal, deadlines)
        self._phase_seconds = deadlines.masked_input_collection
        self._input_number = rounds_of(offer.params).index(Round.MASKED_INPUT_COLLECTION)
        self._closings = 0
        self._closes_at: float | None = None
        self._awaited: set[str] = set()

    def _converse(
        self, machine: RecordedMachine, offer: Offer, client_ids: tuple[ClientId, ...], room: Room
    ) -> _AtFronts:
        return _AtFronts(machine, offer, client_ids, room)

    @property
    def deadline(self) -> float | None:
        """Return the time at which `tick` is due; None while nothing is awaited."""
        own = self._machine.deadline if self._closes_at is None else self._closes_at
        return min((one for one in (own, self._conversations.leases.deadline) if one is not None), default=None)

    @property
    def _tells(self) -> bool:
        return super()._tells or bool(self._conversations.to_fronts)

    @property
    def bytes_in_flight(self) -> int:
        """Return the bytes for the messages that clients may send now, at all fronts."""
        return sum(front.figures.bytes_in_flight for front in self._conversations.fronts.values())

    def front_up(self, name: str, incarnation: str, now: float) -> None:
        """Note a new channel to a front, and tell it the session.

        Args:
            name: the front.
            incarnation: names its process: if it is another one than before, all that the earlier one held is lost.
            now: the time.
        """
        state = self._conversations
        state.now = now
        if (known := state.fronts.get(name)) is not None and known.incarnation != incarnation:
            clients, inputs = len(state.leases.at(name)), state.forget_front(name)
            logger.warning(
                "front %s was lost with the connections of %d clients and, as of its last word, %d inputs; its clients "
                "can come to another front",
                name, clients, inputs,
                extra={"event": "front_lost", "front": name, "clients": clients, "inputs": inputs},
            )  # fmt: skip
        state.fronts.setdefault(name, _Front(incarnation)).is_up = True
        dropped = tuple(self.dropped.values())
        state.tell(name, items.Begin(self.session_id, self.offer, self.client_ids, dropped, self._phase_seconds))
        state.tell(name, state.opened())
        if (end := self._machine.end) is not None:
            state.tell(name, items.SessionEnded(end))

    def front_down(self, name: str, now: float) -> None:
        """Note that a front cannot be reached. Its clients keep their leases until they come to another front."""
        self._conversations.now = now
        if (front := self._conversations.fronts.get(name)) is not None:
            front.is_up = False
        self._awaited.discard(name)

    def items_received(self, name: str, received: Iterable[Up], now: float) -> None:
        """Take a front's words.

        Raises:
            JournalError: the journal could not be written; start again and resume.
        """
        state = self._conversations
        state.now = now
        for item in received:
            self._take(name, item, now)

    def tick(self, now: float) -> None:
        """Close the open round if its deadline has passed; masked inputs are handed over first."""
        state = self._conversations
        state.now = now
        for lease in state.leases.overdue(now):
            state.grant(lease)
        deadline = self._machine.deadline
        if self.round is not Round.MASKED_INPUT_COLLECTION or deadline is None or now < deadline:
            self._closes_at = None
        elif self._closes_at is None:
            self._closings += 1
            self._closes_at, self._awaited = now + HAND_OVER_SECONDS, set(state.up)
            state.tell_all(items.HandOver(self._closings))
        if self._closes_at is None or not self._awaited or now >= self._closes_at:
            if self._closes_at is not None and self._awaited:
                self._say_slow()
            self._closes_at = None
            super().tick(now)

    def commit(self, now: float) -> list[ToFront]:  # type: ignore[override]
        """Make all events since the last call durable, and return what to tell the fronts, in order."""
        state = self._conversations
        state.now = now
        super().commit(now)
        state.tell_round()
        outgoing, state.to_fronts = state.to_fronts, []
        return [(name, item) for name, item in outgoing if name in state.fronts and state.fronts[name].is_up]

    def _say_slow(self) -> None:
        for name in sorted(self._awaited):
            held = self._conversations.fronts[name].figures.held
            logger.warning(
                "front %s did not hand over its inputs within %g s, and %d that it had are left out",
                name, HAND_OVER_SECONDS, held,
                extra={"event": "front_slow", "front": name, "inputs": held},
            )  # fmt: skip

    def _take(self, name: str, item: Up, now: float) -> None:
        state = self._conversations
        link = state.links.get(getattr(item, "client_id", -1))
        match item:
            case items.Claim() if link is not None:
                granted, revoked = state.leases.claim(item.client_id, name, item.lease, state.up, now)
                if revoked is not None:
                    state.revoke(revoked)
                if granted is not None:
                    state.grant(granted)
            case items.Released():
                if (lease := state.leases.released(item.client_id, name, item.lease)) is not None:
                    state.grant(lease)
                elif link is not None and state.leases.of(item.client_id) is None:
                    link.connection = 0
            case items.Left() if link is not None and state.leases.holds(item.client_id, name, item.lease):
                link.connection = 0
            case items.Said() if link is not None and state.leases.holds(item.client_id, name, item.lease):
                self._said(link, item, now)
            case items.Partial():
                self._partial(name, item, now)
            case items.Drop() if link is not None and state.leases.holds(item.client_id, name, item.lease):
                self._drop(link, item.reason, item.detail, now)
            case items.Declined() if link is not None:
                if item.client_id not in state.declined:
                    state.declined[item.client_id] = item.text
            case items.Downloading():
                self._machine.downloading(now)
            case items.Told() if link is not None:
                link.told = True
            case items.HandedOver() if item.number == self._closings:
                self._awaited.discard(name)
            case items.Figures():
                state.fronts[name].figures = item
                state.count()

    def _said(self, link: Link, said: items.Said, now: float) -> None:
        state = self._conversations
        if link.client_id in self.dropped:
            return
        if said.sequence < len(link.digests):
            if said.digest != link.digests[said.sequence]:
                detail = f"message {said.sequence} differs from the one that it sent before"
                self._drop(link, DropReason.DUPLICATE, detail, now)
                return
        elif said.sequence == len(link.digests) and not self._is_over():
            deliveries = self._machine.message(link.client_id, said.data, now, said.digest)
            link.answered(said.digest)
            state.declined.pop(link.client_id, None)
            state.settle(deliveries)
        else:
            return
        if link.client_id not in self.dropped:
            state.tell_front_of(link.client_id, items.Confirmed(link.client_id, said.sequence + 1))

    def _partial(self, name: str, partial: items.Partial, now: float) -> None:
        """Take a partial sum, or refuse it as a whole."""
        state, number = self._conversations, self._input_number
        known = [state.links[client_id].digests for client_id in partial.clients]
        digests = {client_id: digest for client_id, (_, digest) in partial.clients.items()}
        if all(own[number : number + 1] == [digest] for own, digest in zip(known, digests.values(), strict=True)):
            # It comes again, since the last channel broke before it was confirmed.
            state.tell(name, items.PartialTaken(partial.number))
            return
        if moved := [i for i, (lease, _) in partial.clients.items() if not state.leases.holds(i, name, lease)]:
            self._refuse_partial(name, partial, f"{len(moved)} of its clients came to another front")
            return
        try:
            deliveries = self._machine.partial(PartialSum(digests, partial.vector), now)
        except LocalProtocolError as error:
            self._refuse_partial(name, partial, str(error))
            return
        for client_id, digest in digests.items():
            state.links[client_id].answered(digest)
        state.tell(name, items.PartialTaken(partial.number))
        state.settle(deliveries)

    def _refuse_partial(self, name: str, partial: items.Partial, reason: str) -> None:
        logger.warning(
            "a partial sum of front %s was refused, and its %d clients send their inputs again: %s",
            name, len(partial.clients), reason,
            extra={"event": "partial_refused", "front": name, "clients": len(partial.clients), "reason": reason},
        )  # fmt: skip
        self._conversations.tell(name, items.PartialRefused(partial.number, "it was in a sum that was refused"))

    def _drop(self, link: Link, reason: DropReason, detail: str, now: float) -> None:
        if not self._is_over() and link.client_id not in self.dropped:
            self._conversations.settle(self._machine.drop(link.client_id, reason, detail, now))

    def _is_over(self) -> bool:
        return self._machine.end is not None

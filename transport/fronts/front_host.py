"""A session at a front: the conversations with its clients, and the sum of their masked inputs. Sans-IO.

A front decides nothing.  Keys, shares and bad messages go to the coordinator as they are; masked inputs are decoded and
added here.  A client is told that a message is durable once the coordinator has said so.
"""

from collections.abc import Iterable

import secagg
from secagg import ClientDropped, ClientId, CodecError, DropReason, MaskSum, Round, UnmaskJob, rounds_of
from secagg.algebra import ring
from secagg.messages import MaskedInput
from transport.driver import Delivery
from transport.durable.conversations import Conversations
from transport.durable.frames import REPLACED_TEXT, SMALL_BYTES, Ack, Decline, End, Message, Offer, RefusalCode
from transport.durable.links import Counters, Link, Outgoing
from transport.durable.memory_budget import DEFAULT_MEMORY_BYTES, Room
from transport.errors import LinkError
from transport.fronts import items
from transport.fronts.held_inputs import HeldInputs
from transport.fronts.items import Begin, Down, Up

# Frames of a client that wait for its lease: HELLO, and a few PINGs, all small.
_MOST_WAITING = 8

# While others wait, a message must arrive at the latest within this part of the phase of masked inputs.
_SHARE_OF_PHASE = 1 / 4


class RelayedMachine:
    """The coordinator's machine as a front's conversations see it; what goes to it waits in `out`."""

    def __init__(self, begin: Begin) -> None:
        self.session_id = begin.session_id
        self.round = Round.ADVERTISE_KEYS
        self.deadline: float | None = None
        self.dropped: dict[ClientId, ClientDropped] = {drop.client_id: drop for drop in begin.dropped}
        self.end: End | None = None
        self.out: list[Up] = []
        self.leases: dict[ClientId, int] = {}
        self.held = HeldInputs(begin.offer.params)
        # What the coordinator has not confirmed, for a new channel.
        self.said: dict[ClientId, items.Said] = {}
        self.drops: dict[ClientId, items.Drop] = {}
        self._params = begin.offer.params
        self.input_number = rounds_of(self._params).index(Round.MASKED_INPUT_COLLECTION)

    def downloading(self, now: float) -> None:
        """Note that a client received a part of the announcement."""
        if not self.out or not isinstance(self.out[-1], items.Downloading):
            self.out.append(items.Downloading())

    def message(self, client_id: ClientId, data: bytes | memoryview, now: float, digest: bytes) -> list[Delivery]:
        """Add a masked input here; send all other messages, also wrong ones, to the coordinator."""
        lease, sequence = self.leases[client_id], self.sequence_of(client_id)
        if self.held.has(client_id):  # maybe with an earlier lease: it must never be in one sum twice
            self.hand_over()
        is_due = self.round is Round.MASKED_INPUT_COLLECTION and sequence == self.input_number
        if is_due and (message := self._masked_input(data)) is not None:
            self.held.add(client_id, lease, digest, message.masked_input, now)
            return []
        self.said[client_id] = said = items.Said(client_id, lease, sequence, digest, bytes(data))
        self.out.append(said)
        return []

    def sequence_of(self, client_id: ClientId) -> int:
        """Return the number of the client's next message; `FrontHost` sets it."""
        raise NotImplementedError

    def _masked_input(self, data: bytes | memoryview) -> MaskedInput | None:
        """Return the masked input; None if the coordinator must judge the message."""
        try:
            message = secagg.decode_client_message(data, self._params)
        except CodecError:
            return None
        if not isinstance(message, MaskedInput) or message.session_id != self.session_id:
            return None
        is_vector = ring.is_vector(message.masked_input, self._params.vector_length, self._params.ring_bits)
        return message if is_vector else None

    def drop(self, client_id: ClientId, reason: DropReason, detail: str, now: float) -> list[Delivery]:
        """Ask the coordinator to drop a client, after its input, if it is here: it stays in the sum."""
        if self.held.has(client_id):
            self.hand_over()
        if (lease := self.leases.get(client_id)) is not None and client_id not in self.drops:
            self.drops[client_id] = drop = items.Drop(client_id, lease, reason, detail)
            self.out.append(drop)
        return []

    def left(self, client_id: ClientId) -> None:
        """Tell the coordinator that a client's connection ended."""
        if (lease := self.leases.get(client_id)) is not None:
            self.out.append(items.Left(client_id, lease))

    def hand_over(self) -> None:
        """Hand over the inputs that are here."""
        if (partial := self.held.hand_over()) is not None:
            self.out.append(partial)


class _Relaying(Conversations):
    """Conversations that acknowledge a message once the coordinator has confirmed it."""

    def __init__(self, machine: RelayedMachine, offer: Offer, client_ids: Iterable[ClientId], room: Room) -> None:
        super().__init__(machine, offer, client_ids, room)
        self._relayed = machine
        self._confirmed: dict[ClientId, int] = {}

    def _is_next(self, link: Link, sequence: int, digest: bytes, now: float) -> bool:
        # The coordinator drops a client for its first early message; until then, more must not pile up here.
        if sequence == len(link.digests) and sequence > link.sent + 1:
            raise LinkError(f"message {sequence} after only {link.sent} messages of the server")
        return super()._is_next(link, sequence, digest, now)

    def _acknowledge(self, link: Link, sequence: int) -> None:
        if sequence < self._confirmed.get(link.client_id, 0):
            super()._acknowledge(link, sequence)

    def confirm(self, link: Link, received: int) -> None:
        """Note that the first messages of a client are durable, and acknowledge those that were not before."""
        before = self._confirmed.get(link.client_id, 0)
        self._confirmed[link.client_id] = max(received, before)
        if link.greeted:
            self.outbox += [link.deliver(Ack(sequence)) for sequence in range(before, received)]

    def reset(self, link: Link) -> None:
        """Forget all that is known of a client but its connection."""
        self._incoming.forget(link)
        self._confirmed.pop(link.client_id, None)
        link.digests, link.sent, link.unanswered, link.told = [], 0, None, False

    def refuse(self, link: Link, code: RefusalCode, text: str) -> None:
        """Close a client's connection, if it has one."""
        if link.connection:
            self._refuse(link, code, text)

    def too_many(self, link: Link) -> None:
        """Close the connection of a client that sends too much before it is answered."""
        self._refuse_too_many(link)

    def _refuse(self, link: Link, code: RefusalCode, text: str, retry_after: int = 0) -> None:
        super()._refuse(link, code, text, retry_after)
        self._relayed.left(link.client_id)

    def _declined(self, link: Link, decline: Decline) -> None:
        super()._declined(link, decline)
        self._relayed.out.append(items.Declined(link.client_id, decline.text))

    def missed(self, link: Link, sent: int, data: bytes | None) -> None:
        """Deliver the message that was on its way when the last channel broke."""
        link.sent, link.unanswered = sent, data
        if link.greeted and data is not None:
            self.outbox.append(link.deliver(Message(sent - 1, data)))


class FrontHost:
    """One session at a front, for `transport.tcp.SessionServer` as `SessionHost` is, and for the coordinator's channel.

    Args:
        begin: the coordinator's word.

    Attributes:
        memory: see `SessionHost.memory`.
        job: None: the coordinator recovers the masks.
    """

    job: UnmaskJob | None = None

    def __init__(self, begin: Begin) -> None:
        self._machine = machine = RelayedMachine(begin)
        self._room = Room(DEFAULT_MEMORY_BYTES, _SHARE_OF_PHASE * begin.phase_seconds)
        self._conversations = _Relaying(machine, begin.offer, begin.client_ids, self._room)
        self._links = self._conversations.links
        machine.sequence_of = lambda client_id: len(self._links[client_id].digests)  # type: ignore[method-assign]
        self._waiting: dict[ClientId, list[bytes]] = {}
        self._figures: items.Figures | None = None
        self.over = False

    # For the server of connections.

    @property
    def session_id(self) -> bytes:
        """Return the session id."""
        return self._machine.session_id

    @property
    def memory(self) -> int:
        """Return the maximum bytes of clients' messages while they arrive."""
        return self._room.size

    @memory.setter
    def memory(self, size: int) -> None:
        self._room.size = size

    @property
    def deadline(self) -> float | None:
        """Return the time at which `tick` is due."""
        return min((one for one in (self._room.deadline, self._machine.held.deadline) if one is not None), default=None)

    @property
    def untold(self) -> frozenset[ClientId]:
        """Return nothing: the coordinator decides when all are told."""
        return frozenset()

    @property
    def commit_blocks(self) -> bool:
        """Return False: a front has no journal."""
        return False

    @property
    def num_held(self) -> int:
        """Return the number of inputs that the coordinator has not confirmed."""
        return len(self._machine.held)

    def expects(self, client_id: ClientId) -> bool:
        """See `SessionHost.expects`."""
        return self._conversations.expects(client_id)

    def connected(self, client_id: ClientId, now: float, number: int | None = None) -> int:
        """Note a client's new connection, and ask the coordinator for the client; its frames wait for the answer."""
        number = self._conversations.connected(client_id, now, number)
        link = self._links.get(client_id)
        if link is not None and link.connection == number:
            self._waiting[client_id] = []
            self._machine.out.append(items.Claim(client_id))
        return number

    def left(self, client_id: ClientId, now: float, connection: int | None = None) -> None:
        """See `SessionHost.left`."""
        self._conversations.left(client_id, now, connection)
        link = self._links.get(client_id)
        if link is not None and not link.connection:
            self._waiting.pop(client_id, None)
            self._machine.left(client_id)

    def frame_received(
        self, client_id: ClientId, payload: bytes | memoryview, now: float, connection: int | None = None
    ) -> None:
        """See `SessionHost.frame_received`."""
        link, waiting = self._links.get(client_id), self._waiting.get(client_id)
        if link is None or not link.connection or connection not in (None, link.connection):
            return
        if waiting is None:
            self._conversations.frame_received(client_id, payload, now, connection)
        elif len(waiting) < _MOST_WAITING and len(payload) <= SMALL_BYTES:
            waiting.append(bytes(payload))
        else:
            del self._waiting[client_id]
            self._conversations.too_many(link)

    def tick(self, now: float) -> None:
        """Ask for the messages that fit in memory now, and hand over inputs that are due."""
        self._conversations.admit(now)
        due = self._machine.held.deadline
        # When nothing arrives, there is nothing to wait for.
        if due is not None and (now >= due or not self._room.taken):
            self._machine.hand_over()

    def commit(self, now: float) -> list[Outgoing]:
        """Return the frames to send."""
        ending = [link for link, _ in self._conversations.ending if not link.told]
        outgoing = self._conversations.take_outbox()
        self._machine.out += [items.Told(link.client_id) for link in ending if link.told]
        return outgoing

    def finish(self, masks: MaskSum, now: float) -> None:
        """Not for a front."""
        raise NotImplementedError

    @property
    def counters(self) -> Counters:
        """Return the counts of this front's events."""
        return self._conversations.counters

    # For the coordinator's channel.

    def take_items(self) -> list[Up]:
        """Return all that the coordinator has to know."""
        taken, self._machine.out = self._machine.out, []
        return taken

    @property
    def has_items(self) -> bool:
        """Return whether `take_items` would return something."""
        return bool(self._machine.out)

    @property
    def figures(self) -> items.Figures:
        """Return this front's figures."""
        return items.Figures(self.counters, self._room.taken, self.num_held)

    def resume(self, begin: Begin) -> None:
        """Begin a new channel for the same session: repeat all that the coordinator has not confirmed."""
        machine = self._machine
        machine.out = [items.Claim(client_id, lease) for client_id, lease in machine.leases.items()]
        machine.out += [items.Claim(client_id) for client_id in self._waiting]
        machine.out += machine.said.values()
        machine.out += machine.held.given.values()
        machine.out += machine.drops.values()
        machine.out += [items.Declined(*item) for item in self._conversations.declined.items()]
        machine.out += [items.Told(link.client_id) for link in self._links.values() if link.told]
        for drop in begin.dropped:
            self._drop(drop)
        self._conversations.settle([])

    def items_received(self, received: Iterable[Down], now: float) -> None:
        """Take what the coordinator says about the session."""
        for item in received:
            self._take(item, now)

    def _take(self, item: Down, now: float) -> None:
        machine, conversations = self._machine, self._conversations
        match item:
            case items.Opened():
                machine.round = item.round
                machine.deadline = None if item.seconds is None else now + item.seconds
                conversations.admit(now)
            case items.Granted():
                self._granted(item, now)
            case items.Revoked():
                self._revoked(item)
            case items.Forward() if item.client_id in machine.leases:
                link = self._links[item.client_id]
                if item.sent == link.sent + 1:
                    conversations.settle([(item.client_id, item.data)])
            case items.Confirmed() if item.client_id in machine.leases:
                self._confirm(item.client_id, item.received)
            case items.PartialTaken():
                if (partial := machine.held.given.pop(item.number, None)) is not None:
                    for client_id in self._still_here(partial):
                        self._confirm(client_id, machine.input_number + 1)
            case items.PartialRefused():
                if (partial := machine.held.given.pop(item.number, None)) is not None:
                    for client_id in self._still_here(partial):
                        link = self._links[client_id]
                        del link.digests[machine.input_number :]
                        conversations.refuse(link, RefusalCode.STOPPING, f"send your input again: {item.why}")
            case items.Dropped():
                self._drop(item.drop)
                conversations.settle([])
            case items.HandOver():
                machine.hand_over()
                machine.out.append(items.HandedOver(item.number))
            case items.SessionEnded():
                machine.end, machine.deadline = item.end, None
                conversations.settle([])

    def _still_here(self, partial: items.Partial) -> list[ClientId]:
        leases = self._machine.leases
        return [client_id for client_id, (lease, _) in partial.clients.items() if leases.get(client_id) == lease]

    def _drop(self, drop: ClientDropped) -> None:
        self._machine.dropped.setdefault(drop.client_id, drop)
        self._machine.drops.pop(drop.client_id, None)
        self._machine.said.pop(drop.client_id, None)

    def _confirm(self, client_id: ClientId, received: int) -> None:
        said = self._machine.said.get(client_id)
        if said is not None and said.sequence < received:
            del self._machine.said[client_id]
        self._conversations.confirm(self._links[client_id], received)

    def _granted(self, granted: items.Granted, now: float) -> None:
        machine, client_id = self._machine, granted.client_id
        link = self._links[client_id]
        if machine.leases.get(client_id) != granted.lease:
            self._give_up(link)
            machine.leases[client_id] = granted.lease
        # Messages of this lease that are not durable yet are known here alone.
        if len(granted.digests) >= len(link.digests):
            link.digests = list(granted.digests)
        link.told |= granted.told
        self._confirm(client_id, len(granted.digests))
        if granted.sent > link.sent:
            self._conversations.missed(link, granted.sent, granted.unanswered)
        for payload in self._waiting.pop(client_id, ()):
            self._conversations.frame_received(client_id, payload, now)

    def _revoked(self, revoked: items.Revoked) -> None:
        machine, client_id = self._machine, revoked.client_id
        link = self._links[client_id]
        if machine.leases.get(client_id) == revoked.lease:
            if machine.held.has(client_id):
                machine.hand_over()
            # A connection that waits for the next lease is newer. Fronts hear of connections late: it may come again.
            if client_id not in self._waiting:
                code = RefusalCode.REPLACED if revoked.final else RefusalCode.STOPPING
                self._conversations.refuse(link, code, REPLACED_TEXT)
            self._give_up(link)
        machine.out.append(items.Released(client_id, revoked.lease))

    def _give_up(self, link: Link) -> None:
        self._machine.leases.pop(link.client_id, None)
        self._machine.said.pop(link.client_id, None)
        self._machine.drops.pop(link.client_id, None)
        self._conversations.reset(link)

    def __repr__(self) -> str:
        round_, clients = self._machine.round.value, len(self._machine.leases)
        return f"<FrontHost {round_}, {clients} clients, {self.num_held} inputs held>"

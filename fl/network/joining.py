"""A client's training: round after round, on its own examples, until the server has no more rounds."""

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fl.counters import IntegerVector
from fl.local_work import local_update
from fl.network.addresses import show_address
from fl.network.announcement import Announcement, TrainingOver, decode_announcement, round_context
from fl.network.errors import AnnouncementError, NetworkError
from fl.network.local_data import LocalData
from fl.network.policy import Policy
from fl.seeds import NETWORK_SEED, TRAINING_SEED, derived_seed
from fl.session_policy import PolicyError
from fl.threads import worthwhile_threads
from secagg import ClientId, Identity, KeyDirectory
from transport import ClientJournal, EndCode, Offer, RefusalCode, SessionRefusedError
from transport.certs import Credentials, directory_from, identity_from
from transport.link import MAX_EXTRA_BYTES, End, decode_server_frame
from transport.tcp import Address, Plaintext, Retry, join_session

# The session goes on without this client, or is over: the next one will do.
_NEXT_ROUND = (RefusalCode.TOO_LATE, RefusalCode.DROPPED, RefusalCode.NO_SESSION)

# Before it asks again; drawn at random, so that clients whom one failure hit do not come back together.
_PAUSE_SECONDS = (0.5, 1.5)

# What is longer than the connection's bound is cut off without a word of why: up to here there is one.
_SPARE_BYTES = 1 << 26

# The server may offer another session once, after a restart; then there is one that the client can be in.
_MOST_REFUSALS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinOptions:
    """How a client takes part.

    Attributes:
        client_id: the one in its certificate.
        address: where the server is.
        tls: the client's certificate, or that there is to be none.
        server_name: the name in the server's certificate, if it is not the host that is called.
        identity_key: in malicious mode, the client's key file.
        directory: in malicious mode, the folder with everybody's certificates and the authority's.
        state: a folder for the journal and its key; without it, a crash costs the client the round.
        policy: what it asks of an offer.
        max_model_bytes: how long an announcement to take, the model in it.
        give_up: seconds without a word of the server's.
        once: whether one round is enough.
    """

    client_id: ClientId
    address: Address
    tls: Credentials | Plaintext
    server_name: str | None = None
    identity_key: Path | None = None
    directory: Path | None = None
    state: Path | None = None
    policy: Policy
    max_model_bytes: int
    give_up: float
    once: bool = False


class _DeclinedError(SessionRefusedError):
    """The client's own decision: with this server there is nothing to be had."""


class _OverError(SessionRefusedError):
    """The server has no more rounds."""


class _ModeError(SessionRefusedError):
    """Identities are for malicious mode only: which mode it is, the offer says."""


class Participant:
    """One client.

    Args:
        options: see there.
        data: its examples.
        say: tells the user something, a line at a time.
    """

    def __init__(self, options: JoinOptions, data: LocalData, say: Callable[[str], None]) -> None:
        self._options = options
        self._data = data
        self._say = say
        self._announced: Announcement | None = None
        self._has_identity = False
        self.rounds = 0

    async def run(self) -> None:
        """Until the training is over; `rounds` says how many this client was in.

        Raises:
            NetworkError: the offer was declined, or the server does not want this client.
            TransportError, secagg.SecAggError, FLError: as `join_session`, and from the training.
        """
        options, refusals = self._options, 0
        where = show_address(options.address)
        self._say(f"client {options.client_id} with {len(self._data.labels)} examples, server {where}")
        if self._data.is_of_one_class:
            self._say(f"all of them are of class {self._data.max_label}: is that right?")
        while True:
            self._announced = None
            try:
                end = await self._session()
            except _OverError:
                self._say("the training is over")
                return
            except _ModeError:
                self._has_identity = not self._has_identity
                continue
            except _DeclinedError as error:
                raise NetworkError(f"declined the server's offer: {error}") from None
            except SessionRefusedError as error:
                refusals += 1
                if error.code not in (None, *_NEXT_ROUND) or (error.code is None and refusals >= _MOST_REFUSALS):
                    raise NetworkError(str(error)) from None
                if refusals == 1:
                    self._say(f"not in this round ({error}); waiting for the next")
                await asyncio.sleep(random.uniform(*_PAUSE_SECONDS))  # noqa: S311 - no secret
                continue
            refusals = 0
            if self._is_last(end):
                return

    def _is_last(self, end: End) -> bool:
        announced = self._announced
        assert announced is not None  # noqa: S101 - a session that ended was offered
        if end.code is not EndCode.COMPLETED:
            self._say(f"round {announced.round}/{announced.rounds}: no result ({end.text}); waiting for the next")
            return False
        self.rounds += 1
        self._say(f"round {announced.round}/{announced.rounds}: {end.included} updates are in the mean")
        if announced.round == announced.rounds:
            self._say("the training is over")
        return announced.round == announced.rounds or self._options.once

    async def _session(self) -> End:
        options = self._options
        journal = self._journal()
        try:
            identity, directory = self._identity()
            return await join_session(
                self._input,
                address=options.address,
                tls=options.tls,
                client_id=options.client_id,
                accept=self._accept,
                context=lambda offer: round_context(offer.number, offer.extra),
                identity=identity,
                directory=directory,
                journal=journal,
                server_name=options.server_name,
                max_extra=min(max(2 * options.max_model_bytes, _SPARE_BYTES), MAX_EXTRA_BYTES),
                retry=Retry(longest=min(5.0, options.give_up / 4), give_up=options.give_up),
            )
        finally:
            if journal is not None:
                journal.close()

    def _journal(self) -> ClientJournal | None:
        """The journal; with a session in it, that session is gone on with."""
        if self._options.state is None:
            return None
        try:
            self._options.state.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise NetworkError(f"cannot write to {self._options.state}: {error.strerror}") from None
        name = f"client-{self._options.client_id}"
        journal = ClientJournal(self._options.state / f"{name}.journal", self._options.state / f"{name}.journal-key")
        if not journal.is_empty:
            offer = decode_server_frame(journal.offer, len(journal.offer))
            assert isinstance(offer, Offer)  # noqa: S101 - it is authentic, and was one when it was written
            self._has_identity = offer.params.has_identities
            self._announced = _announced_in(offer)
            self._say(f"round {self._announced.round}/{self._announced.rounds}: going on where this client was")
        return journal

    def _identity(self) -> tuple[Identity | None, KeyDirectory | None]:
        if not self._has_identity:
            return None, None
        options = self._options
        if options.identity_key is None or options.directory is None:
            raise NetworkError("the server asks for identities (malicious mode), and this client was given none")
        return identity_from(options.identity_key), directory_from(options.directory, options.directory / "ca.pem")

    def _accept(self, offer: Offer) -> None:
        most = self._options.max_model_bytes
        if len(offer.extra) > most:
            raise _DeclinedError(f"an announcement of {len(offer.extra):,} bytes, but this client takes {most:,}")
        try:
            announced = decode_announcement(offer.extra)
            if isinstance(announced, Announcement):
                self._options.policy.check_parameters(offer.params)
                self._options.policy.check_training(announced, offer.params, self._data)
        except (AnnouncementError, PolicyError) as error:
            raise _DeclinedError(str(error)) from None
        if isinstance(announced, TrainingOver):
            raise _OverError("the training is over")
        if announced.round != offer.number:
            raise _DeclinedError(f"round {announced.round} is announced for session {offer.number}")
        if offer.params.has_identities != self._has_identity:
            raise _ModeError("another mode")
        self._announced = announced

    def _input(self, offer: Offer) -> IntegerVector:
        """Train, and encode the update. The same offer gives the same vector, also after a crash."""
        announced = _announced_in(offer)
        data, number, client_id = self._data, announced.round, self._options.client_id
        model = self._options.policy.check_training(announced, offer.params, data)
        self._say(f"round {number}/{announced.rounds}: training on {len(data.labels)} examples")
        update = local_update(
            model,
            data.images,
            data.labels,
            announced.training,
            seed=derived_seed(announced.seed, TRAINING_SEED, number, client_id),
            threads=worthwhile_threads(model, data.image_shape, announced.training.batch_size),
        )
        rng = np.random.default_rng((derived_seed(announced.seed, NETWORK_SEED, number), client_id))
        return announced.encoding.encode(update, rng)


def _announced_in(offer: Offer) -> Announcement:
    """The announcement of an offer that was taken."""
    announced = decode_announcement(offer.extra)
    assert isinstance(announced, Announcement)  # noqa: S101 - else it was not taken
    return announced

"""A client's training: round after round, on its own examples, until the server has no more rounds.

A client answers each round of a training only once, even if the server asks again or the client is restarted: two sums
that differ only in whether it took part would reveal its update.  If a round begins with a measurement, the client also
answers that once, with the ranges of its update.
"""

import asyncio
import math
import random
import time
from collections.abc import Callable

from fl.aggregation.counters import IntegerVector
from fl.aggregation.session_policy import PolicyError
from fl.errors import ConfigError
from fl.network.addresses import check_hosts, show_addresses
from fl.network.announcement import RoundAnnouncement, round_context
from fl.network.answer_records import AnswerRecords
from fl.network.errors import AnnouncementVersionError, NetworkError
from fl.network.local_data import LocalData
from fl.network.modes import check_certificates
from fl.network.offers import DeclinedError, JoinOptions, ModeError, OverError, check_offer
from fl.network.own_examples import OwnExamples
from fl.network.own_inputs import OwnInputs, announced_in
from fl.network.own_models import OwnModels
from fl.network.own_privacy import own_account, remark, spent_in_words
from secagg import Adversary, Identity, KeyDirectory, RemoteProtocolError, Rule
from transport import (
    BudgetSpentError,
    ClientJournal,
    ClientRecord,
    EndCode,
    HeldAnnouncement,
    InputWithheldError,
    JournalFullError,
    KeyedInput,
    Offer,
    OlderServerError,
    RefusalCode,
    RepeatedSessionError,
    SessionRefusedError,
)
from transport.certificates.reading import CertificateError, CertifiedKeys, identity_from
from transport.durable.frames import MAX_EXTRA_BYTES, End, Waiting, decode_server_frame
from transport.tcp import Retry, join_session
from transport.tcp.client import addresses_of

# The session continues without this client, or is over: the client waits for the next one.
_NEXT_ROUND = (RefusalCode.TOO_LATE, RefusalCode.DROPPED, RefusalCode.NO_SESSION)

# The pause before the client asks again; random, so that clients do not all come back at once after a failure.
_PAUSE_SECONDS = (0.5, 1.5)

# The pauses after an offer that the client does not accept: each new offer downloads the model again.
_PATIENCE = Retry(first=1.0, longest=10.0)

# The shortest time between two messages to the user that this client waits; the server may send any number.
_NEWS_SECONDS = 60.0

# A longer message than the connection's bound is cut off without a reason. Up to this size, the client gives one.
_SPARE_BYTES = 1 << 26

# A restarted server may offer another session once; after that, the client can take part in its sessions.
_MOST_REFUSALS = 5


class Participant:
    """One client of a training.

    Args:
        options: the client's options.
        data: the client's examples.
        say: prints one line for the user.
    """

    def __init__(self, options: JoinOptions, data: LocalData, say: Callable[[str], None]) -> None:
        self._options = options
        self._records = AnswerRecords.of_client(options)
        self._examples = OwnExamples(data, options.client_id, options.holdout, self._records.updates)
        self._models = OwnModels(options.out, options.personal, self._examples, say)
        self._say = say
        self._announced: RoundAnnouncement | None = None
        self._has_identity = options.policy.adversary is Adversary.MALICIOUS
        self._inputs = OwnInputs(options, self._examples, self._models, say)
        self._held = HeldAnnouncement()
        self._keys: CertifiedKeys | None = None
        # How often in a row certificates may fail: never at first, since that is a mistake of the user.
        self._misfits_left = 0
        # Sessions in a row in which the client had no update of its own.
        self._failed = 0
        self.rounds = 0
        # Whether the user was told what the privacy of rounds depends on.
        self._is_told = False
        # The time of the last message to the user about waiting, and the number of such frames in this wait.
        self._told_at, self._times_waiting = -math.inf, 0

    async def run(self) -> None:
        """Take part until the training is over; `rounds` counts the rounds that this client was in.

        The models that it keeps are then in their folder, also if this raises an error.

        Raises:
            NetworkError: this client declined the offer, or the server refused this client.
            TransportError, secagg.SecAggError, FLError: from `join_session` and from the training.
        """
        with own_account(self._options) as account:
            self._inputs.account = account
            try:
                await self._take_part()
            finally:
                self._models.tell()

    async def _take_part(self) -> None:
        options, refusals, setbacks, is_waiting = self._options, 0, 0, False
        where, data = show_addresses(addresses_of(options.address)), self._examples.all
        self._say(f"client {options.client_id} with {len(data.labels)} examples, server {where}")
        if data.is_of_one_class:
            self._say(f"all of them are of class {data.max_label}: is that right?")
        await check_hosts(addresses_of(options.address))
        while True:
            self._announced = None
            self._inputs.failures.clear()
            try:
                end = await self._session()
            except OverError as over:
                self._say(f"the training is over{spent_in_words(self._inputs.account)}")
                self._take_final(over.final)
                return
            except (InputWithheldError, JournalFullError, RemoteProtocolError) as error:
                # The cause is the received model, the data, the disk, or other clients' certificates on this machine.
                if isinstance(error, RemoteProtocolError) and error.rule is not Rule.IDENTITY_NOT_TRUSTED:
                    raise
                self._note_failure(error)
                setbacks += 1
                await asyncio.sleep(_PATIENCE.delay(setbacks))
                continue
            except CertificateError as error:
                # While files are being replaced, they may not match for a moment.
                if not self._misfits_left:
                    raise
                self._misfits_left -= 1
                self._say(f"{error}; trying again")
                await asyncio.sleep(_PATIENCE.delay(_MOST_REFUSALS - self._misfits_left))
                continue
            except BudgetSpentError as error:
                raise NetworkError(f"{error} (--max-rounds)") from None
            except (ModeError, RepeatedSessionError, OlderServerError) as error:
                if isinstance(error, ModeError):
                    self._has_identity = not self._has_identity
                elif not is_waiting:
                    hint = " (--training NAME)" if isinstance(error, RepeatedSessionError) else ""
                    self._say(f"not in this round: {error}{hint}; waiting for the next")
                    is_waiting = True
                setbacks += 1
                await asyncio.sleep(_PATIENCE.delay(setbacks, error.retry_after))
                continue
            except DeclinedError as error:
                raise NetworkError(f"declined the server's offer: {error}") from None
            except SessionRefusedError as error:
                refusals += 1
                if error.code not in (None, *_NEXT_ROUND) or (error.code is None and refusals >= _MOST_REFUSALS):
                    raise NetworkError(str(error)) from None
                if refusals == 1:
                    self._say(f"not in this round ({error}); waiting for the next")
                await asyncio.sleep(_PATIENCE.delay(1, error.retry_after))
                continue
            has_answered, failure = self._has_answered(), self._failure()
            if failure is not None:
                # No pause: who waits longer than the others shows the server whose examples its model fails on.
                self._note_failure(failure)
            elif has_answered:
                self._failed = 0
            if self._is_last(end, has_answered):
                return
            refusals, setbacks, is_waiting = 0, 0 if has_answered else setbacks + 1, False
            if not has_answered:
                await asyncio.sleep(_PATIENCE.delay(setbacks))
            elif end.code is not EndCode.COMPLETED:
                await asyncio.sleep(random.uniform(*_PAUSE_SECONDS))  # noqa: S311 - no secret

    def _failure(self) -> InputWithheldError | None:
        """Return why this client's input in the ended session counts nothing; None if it counts."""
        return None if self._announced is None else self._inputs.failures.get(self._announced.round)

    def _note_failure(self, error: Exception) -> None:
        """Tell the user of a round without an update; NetworkError after too many in a row."""
        self._failed += 1
        if self._failed == self._options.max_failed_rounds:
            raise NetworkError(
                f"no update in {self._failed} rounds in a row, the last time since: {error} (--max-failed-rounds)"
            ) from None
        self._say(f"no update in this round: {error}; waiting for the next")

    def _has_answered(self) -> bool:
        """Return whether this client answered the session; a server can end sessions at once, again and again."""
        return self._announced is not None and self._record().last_answered() == self._announced.round

    def _record(self) -> ClientRecord:
        """Return this client's record of answers of the announced kind: ranges, updates or scores."""
        assert self._announced is not None  # noqa: S101 - an offer is checked before its record
        return self._records.of(self._announced)

    def _is_last(self, end: End, has_answered: bool) -> bool:
        announced = self._announced
        if announced is None:
            raise NetworkError("the server ended a session that it had not offered: is it `secagg serve`?")
        where, is_update = f"round {announced.round}/{announced.rounds}", announced.purpose == "update"
        spent = "" if announced.privacy is None else spent_in_words(self._inputs.account)
        if end.code is not EndCode.COMPLETED:
            self._say(f"{where}: no result ({end.text}){spent}; waiting for the next")
            return False
        if announced.measures:
            # The round continues with the update's session.
            return False
        if not has_answered and announced.round != announced.rounds:
            self._say(f"{where}: it ended before this client had answered")
            return False
        if is_update:
            self.rounds += 1
            self._say(f"{where}: {end.included} updates are in the mean{spent}")
            if announced.holdout:
                # The round continues with the scores of the new model.
                return False
        if announced.round == announced.rounds:
            if self._models.is_wanted and not self._options.once:
                # The final model comes with the end of the training.
                return False
            self._say(f"the training is over{spent_in_words(self._inputs.account)}")
        return announced.round == announced.rounds or self._options.once

    def _take_final(self, final: RoundAnnouncement | None) -> None:
        if final is None or not self._models.is_wanted:
            return
        try:
            model, _ = self._options.policy.check_model(final, self._examples.all)
            self._examples.follow(final.holdout)
            self._models.finish(final, model)
        except PolicyError as error:
            self._say(f"the final model is not taken: {error}")

    async def _session(self) -> End:
        options = self._options
        self._times_waiting = 0
        # Kept after the session, since the thread that makes the input may still need it.
        journal = self._inputs.journal = self._open_journal()
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
                record=lambda _: self._record(),
                server_name=options.server_name,
                limits=options.limits,
                max_extra=min(max(2 * options.max_model_bytes, _SPARE_BYTES), MAX_EXTRA_BYTES),
                held=self._held,
                retry=Retry(longest=min(5.0, options.give_up / 4), give_up=options.give_up),
                unreachable=self._say_unreachable,
                on_waiting=self._note_waiting,
            )
        finally:
            if journal is not None:
                journal.close()

    def _note_waiting(self, waiting: Waiting) -> None:
        """Tell the user from time to time, but not for the short wait after each round."""
        self._times_waiting += 1
        now = time.monotonic()
        if now - self._told_at < _NEWS_SECONDS or (self._times_waiting == 1 and self._told_at > -math.inf):
            return
        self._told_at = now
        if waiting.present < waiting.needed:
            self._say(f"waiting for other clients: {waiting.present} of {waiting.needed} are there")
        else:
            self._say("waiting for the next round")

    def _say_unreachable(self, why: str) -> None:
        address = show_addresses(addresses_of(self._options.address))
        self._say(f"no connection to {address} yet ({why}); trying again for {self._options.give_up:g} s")

    def _open_journal(self) -> ClientJournal | None:
        """Open the journal; a session in it is continued."""
        if self._options.state is None:
            return None
        name = f"client-{self._options.client_id}"
        journal = ClientJournal(self._options.state / f"{name}.journal", self._options.state / f"{name}.journal-key")
        if not journal.is_empty:
            offer = decode_server_frame(journal.offer, len(journal.offer))
            assert isinstance(offer, Offer)  # noqa: S101 - the journal is authentic, and begins with an offer
            self._has_identity = offer.params.has_identities
            try:
                self._announced = announced_in(offer)
            except AnnouncementVersionError:
                # The session is lost, and this client's answer to it is in the record.
                self._say(f"round {offer.number} was begun by another version of this program: waiting for the next")
                journal.delete()
                return self._open_journal()
            self._say(f"round {self._announced.round}/{self._announced.rounds}: going on where this client was")
        return journal

    def _identity(self) -> tuple[Identity | None, KeyDirectory | None]:
        if not self._has_identity:
            return None, None
        options = self._options
        if options.identity_key is None or options.directory is None:
            raise NetworkError(
                "malicious mode needs this client's key and the certificates of all clients: give --certs"
            )
        identity = identity_from(options.identity_key)
        if self._keys is None:
            self._keys = CertifiedKeys(options.directory, options.directory / "ca.pem")
        return identity, self._keys

    def _accept(self, offer: Offer) -> None:
        self._misfits_left = _MOST_REFUSALS
        account = self._inputs.account
        announced = check_offer(offer, self._options, self._examples.all, account)
        try:
            self._examples.follow(announced.holdout)
        except PolicyError as error:
            raise DeclinedError(str(error), told=str(error)) from None
        if offer.params.has_identities != self._has_identity:
            raise ModeError("another mode")
        if self._has_identity and self._options.directory is not None:
            try:
                check_certificates(self._options.directory, offer.params.num_clients)
            except ConfigError as error:
                raise DeclinedError(str(error), told="it lacks certificates of other clients") from None
        if announced.privacy is not None:
            if not self._is_told and (text := remark(announced.privacy, offer.params, account)):
                self._say(text)
            self._is_told = True
        self._announced = announced

    def _input(self, offer: Offer) -> IntegerVector | KeyedInput:
        return self._inputs.make(offer)

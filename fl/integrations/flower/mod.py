"""The client's side: a Flower mod that answers through the protocol, and never in the clear.

Each message may be handled by another process, so between two messages the client is stored only in ``context.state``,
as the bytes of `secagg.Client.suspend`.  The app trains when the masked input is due, so no update is stored, with one
exception: between a session that measures and the next one, which sends the same update, the update waits in
``context.state`` too.
"""

import logging
import os
from collections.abc import Callable, Iterable
from enum import Enum
from functools import cache
from typing import Any, TypeVar

from fl.aggregation.session_policy import SessionPolicy, usual_policy
from fl.errors import ConfigError, FLError, PublicError
from fl.integrations.flower._flwr import FAILED_PRECONDITION, ConfigRecord, Context, Error, Message, RecordDict
from fl.integrations.flower.app_state import Trained, install, keep_session, take_session, without_session
from fl.integrations.flower.app_view import run_digest
from fl.integrations.flower.content import content_digest
from fl.integrations.flower.errors import OfferError, OtherRunError
from fl.integrations.flower.node_record import NodeRecord, RoundName
from fl.integrations.flower.offer import RoundOffer
from fl.integrations.flower.own_reply import AppFailedError, ClientAppCallable, own_input, own_private_input
from fl.integrations.flower.wire import REASON_LIMIT, REFUSAL, Onward, Opening, pack_answer, unpack
from fl.integrations.identities import EnrolledKeys
from fl.integrations.own_privacy import OwnPrivacy
from fl.privacy.policy import PrivacyPolicy
from secagg import (
    Adversary,
    Client,
    ClientPhase,
    GraphKind,
    Identity,
    InputRequested,
    LocalProtocolError,
    PolicyError,
    SecAggError,
    Send,
    decode_server_message,
    encode,
)
from transport import TransportError
from transport.errors import printable

_LOG = logging.getLogger("flwr.secagg")

_IN_THE_CLEAR = frozenset({"evaluate", "query"})
"""The messages that an app may get outside sessions; Flower's older clients answer other messages with their model."""

IdentitySource = Identity | Callable[[Context], Identity] | None
KeySource = Iterable[bytes] | Callable[[Context], Iterable[bytes]] | None
NameSource = str | Callable[[Context], str]
FolderSource = str | os.PathLike[str] | Callable[[Context], str | os.PathLike[str]] | None
NumberSource = int | Callable[[Context], int]


_E = TypeVar("_E", bound=Enum)


def secagg_mod(
    *,
    min_inputs: int | None = None,
    max_elements: int = 1 << 27,
    adversary: Adversary | str | None = None,
    graph: GraphKind | str | None = None,
    identity: IdentitySource = None,
    enrolled: KeySource = None,
    protect_evaluate: bool = False,
    claims: str | os.PathLike[str] | None = None,
    training: NameSource = "default",
    max_rounds: NumberSource = 1000,
    privacy: PrivacyPolicy | None = None,
    ledger: FolderSource = None,
) -> "SecAggMod":
    """Return a mod that lets a `ClientApp` train through secure aggregation; it must be the first mod::

        app = ClientApp(mods=[secagg_mod(), fixedclipping_mod])

    Mods after it see the app's messages and replies as usual, so clipping and noise come before masking.

    Args:
        min_inputs: the fewest clients of an average; sessions with a lower threshold are declined. By default 3 if
            there is an identity, else 2.
        max_elements: the longest vector, in elements, that the node takes part with; each element needs about 30 bytes
            of memory.
        adversary: the weakest server that sessions must be safe against; by default `Adversary.MALICIOUS` if there is
            an identity, else `Adversary.HONEST_BUT_CURIOUS`, with a warning in the log: this node trusts the server.
        graph: `GraphKind.SPARSE` takes sparse graphs too, `GraphKind.COMPLETE` does not; by default, or with
            ``auto``, a node that trusts the server takes them, and one that does not declines them (see
            `secagg.SessionPolicy`).
        identity: in malicious mode, this node's key pair, or a function that takes the context and loads it.
        enrolled: in malicious mode, the public keys of all nodes that may take part, or a function that takes the
            context and loads them; they must not come through the server.
        protect_evaluate: True also declines evaluation outside the protocol.
        claims: against a lying server, the folder of the record of this node's answers, which all its processes share;
            by default a folder of this user (`fl.aggregation.participation.open_participation`).
        training: the node's own name for the training whose rounds it answers, or a function that takes the context and
            returns it.
        max_rounds: against a lying server, the most rounds that the node answers in one training, over all runs, or a
            function that takes the context and returns it. A protected evaluation counts as a round.
        privacy: the most that all rounds together, and one round, may give away of this node: sessions without enough
            noise are declined before it trains, and so is evaluation, whose answers have no noise.
        ledger: with ``privacy``, the folder of what the node has given away, of this node alone, or a function that
            takes the context and returns it. It must outlive all trainings.

    Raises:
        ConfigError: the arguments do not fit each other.
    """
    return SecAggMod(
        policy=usual_policy(
            has_identity=identity is not None,
            adversary=None if adversary is None else _one_of(Adversary, adversary, "adversary"),
            min_inputs=min_inputs,
            max_elements=max_elements,
            graph=None if graph in (None, "auto") else _one_of(GraphKind, graph, "graph"),
        ),
        identity=identity,
        enrolled=enrolled,
        # What an app measures on its examples is not private either.
        protected=frozenset({"train", "evaluate"} if protect_evaluate or privacy is not None else {"train"}),
        claims=claims,
        training=training,
        max_rounds=max_rounds,
        privacy=privacy,
        ledger=ledger,
    )


class SecAggMod:
    """The mod that `secagg_mod` returns; its arguments are described there."""

    def __init__(
        self,
        *,
        policy: SessionPolicy,
        identity: IdentitySource,
        enrolled: KeySource,
        protected: frozenset[str],
        claims: str | os.PathLike[str] | None,
        training: NameSource,
        max_rounds: NumberSource,
        privacy: PrivacyPolicy | None = None,
        ledger: FolderSource = None,
    ) -> None:
        if (privacy is None) != (ledger is None):
            raise ConfigError("limits of privacy need both: `privacy`, and `ledger`, a folder of this node alone")
        if (identity is None) != (enrolled is None):
            raise ConfigError("malicious mode needs both: this node's identity, and the enrolled keys of all nodes")
        if policy.adversary is Adversary.MALICIOUS and identity is None:
            raise ConfigError("sessions that are safe against a malicious server need `identity` and `enrolled`")
        if type(policy.min_inputs) is not int or policy.min_inputs < 2:
            raise ConfigError(f"min_inputs must be an int of at least 2, not {policy.min_inputs!r}")
        if not callable(training):
            _checked_training(training)
        if not callable(max_rounds):
            _checked_rounds(max_rounds)
        self._policy = policy
        self._identity = identity
        self._enrolled = enrolled
        self._protected = protected
        self._claims = claims
        self._training = training
        self._max_rounds = max_rounds
        self._privacy = privacy
        self._ledger = ledger

    def __call__(self, message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        """Answer one message, as Flower calls a mod."""
        try:
            said, own = unpack(message.content)
            if said is None:
                return self._unprotected(message, context, call_next)
            if isinstance(said, Opening):
                answer = self._open(said, message, context)
            else:
                answer = self._go_on(said, own, message, context, call_next)
        except AppFailedError as failure:
            return Message(failure.error, reply_to=message)
        except (PublicError, PolicyError) as error:
            # This error is about the server's message, or about a structure that travels in the clear.
            _LOG.error("secagg: node %s leaves this round: %s", context.node_id, error)
            return _refusal(message, str(error))
        except (FLError, SecAggError, TransportError) as error:
            # The reason may tell something about this client's data, so it stays here.
            _LOG.error("secagg: node %s leaves this round: %s", context.node_id, error)
            return _refusal(message, "this node takes no part; its own log says why")
        return Message(answer, reply_to=message)

    def _unprotected(self, message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        """Answer a message outside a session: pass it to the app if the answer may be in the clear."""
        category = message.metadata.message_type.split(".")[0]
        if category in _IN_THE_CLEAR - self._protected:
            with without_session(context):
                return call_next(message, context)
        category = printable(category)
        _LOG.error("secagg: node %s was asked to %s in the clear and declines", context.node_id, category)
        return _refusal(
            message,
            f"this node answers {category} messages through secure aggregation only: wrap the ServerApp's grid "
            "in SecAggGrid" + (" with protect_evaluate=True" if category == "evaluate" else ""),
        )

    def _open(self, opening: Opening, message: Message, context: Context) -> RecordDict:
        """Begin a session; an open one is forgotten, except its reply if the content is exactly the same."""
        last, trained = take_session(context)
        offer = RoundOffer.from_bytes(opening.offer)
        if last is None or not trained.reply or RoundOffer.from_bytes(last["offer"]).asked != offer.asked:
            trained = Trained()
        self._own_privacy(context).check(offer.privacy, offer.params)
        _check_run(offer, message, context)
        who = self._who(offer, context)
        client = Client(offer.params, opening.client_id, context=offer.context, nonce=offer.nonce, **who)
        if offer.params.is_signed:
            self._record(who, context).enter(client.session_id)
        else:
            _warn_of_trust()
        (send,) = client.start()
        return self._answer(client, send, context, {"offer": opening.offer}, trained)

    def _go_on(
        self, onward: Onward, own: RecordDict, message: Message, context: Context, call_next: ClientAppCallable
    ) -> RecordDict:
        """Handle a message of the protocol, and train if the input is due."""
        stored, trained = take_session(context)
        if stored is None or "client" not in stored:
            raise OfferError("no session is open on this node: it was never offered, or it is over")
        kept = dict(stored)
        blob, offer = kept.pop("client"), RoundOffer.from_bytes(kept["offer"])
        _check_run(offer, message, context)
        who = self._who(offer, context)
        record = self._record(who, context) if offer.params.is_signed else None
        if record is not None:
            record.claim(blob)
        client = Client.resume(blob, **who)
        (event,) = client.receive(decode_server_message(onward.message, offer.params))
        if not isinstance(event, InputRequested):
            if record is not None and client.phase is ClientPhase.FINISHED:
                # The shares that open the sum go out next.
                round_ = RoundName(kept["series"], kept["number"])
                record.answer(client.session_id, round_, context.run_id, offer.content, measures=offer.measures)
            return self._answer(client, event, context, kept, trained)
        if event.rejected_shares:
            _LOG.warning("secagg: shares of %d clients could not be opened", len(event.rejected_shares))
        if content_digest(message.metadata.message_type, own) != offer.content:
            raise OfferError("the message to answer is not the one that the session was opened for")
        if record is not None:
            round_ = RoundName.of(message.metadata.message_type, own, context.run_id)
            record.check(round_, context.run_id, offer.content, measures=offer.measures)
            kept |= {"series": round_.series, "number": round_.number}
        if offer.privacy is None:
            made = own_input(offer, own, message, context, call_next, trained)
        else:
            self._own_privacy(context).charge(offer.privacy, offer.params)
            made = own_private_input(offer, own, message, context, call_next)
        (send,) = client.submit_input(made.vector)
        return self._answer(client, send, context, kept, made.trained, made.layout.to_bytes())

    def _answer(
        self,
        client: Client,
        send: Any,
        context: Context,
        kept: dict[str, Any],
        trained: Trained,
        layout: bytes = b"",
    ) -> RecordDict:
        """Return the reply with a client's message, and store the client in the node's state with ``kept``.

        The client's last message installs the app's state after training.  If this session measures, the state waits
        for the next session, with the app's reply.
        """
        assert isinstance(send, Send)  # noqa: S101 - all that a client has to say but InputRequested
        data = encode(send.message, client.params)
        if client.phase is not ClientPhase.FINISHED:
            keep_session(context, ConfigRecord({"client": client.suspend(), **kept}), trained)
        elif trained.reply:
            keep_session(context, ConfigRecord({"offer": kept["offer"]}), trained)
        else:
            install(context, trained.state)
        return pack_answer(data, layout)

    def _who(self, offer: RoundOffer, context: Context) -> dict[str, Any]:
        """Return the identity and the directory, if the mode has them."""
        if not offer.params.has_identities:
            return {}
        if self._identity is None or self._enrolled is None:
            raise OfferError("the session needs identities, but this node has none: give secagg_mod(identity=...)")
        identity = self._identity if isinstance(self._identity, Identity) else self._identity(context)
        enrolled = self._enrolled(context) if callable(self._enrolled) else self._enrolled
        try:
            return {"identity": identity, "directory": EnrolledKeys(enrolled)}
        except LocalProtocolError as error:
            raise ConfigError(f"the enrolled keys cannot be used: {error}") from None

    def _own_privacy(self, context: Context) -> OwnPrivacy:
        folder = self._ledger(context) if callable(self._ledger) else self._ledger
        return OwnPrivacy(self._privacy, self._policy, folder)

    def _record(self, who: dict[str, Any], context: Context) -> NodeRecord:
        """Return the record of this node's answers, under its identity if it has one."""
        training = self._training(context) if callable(self._training) else self._training
        max_rounds = self._max_rounds(context) if callable(self._max_rounds) else self._max_rounds
        owner = who["identity"].public_key if who else f"node {context.node_id}".encode()
        return NodeRecord(
            self._claims, owner, training=_checked_training(training), max_rounds=_checked_rounds(max_rounds)
        )

    def __repr__(self) -> str:
        return f"SecAggMod({self._policy.adversary.value}, at least {self._policy.min_inputs} inputs)"


def _one_of(kind: type[_E], value: Any, name: str) -> _E:
    try:
        return kind(value)
    except ValueError:
        known = ", ".join(repr(member.value) for member in kind)
        raise ConfigError(f"{name} must be one of {known}, not {value!r}") from None


def _checked_training(name: object) -> str:
    if isinstance(name, str):
        return name
    raise ConfigError(f"`training` must be a name, not {name!r}")


def _checked_rounds(number: object) -> int:
    if type(number) is int and number >= 1:
        return number
    raise ConfigError(f"`max_rounds` must be a positive int, not {number!r}")


def _check_run(offer: RoundOffer, message: Message, context: Context) -> None:
    """Raise OtherRunError if this node was told another run or configuration than the session was opened for."""
    if run_digest(context.run_id, message.metadata.group_id, context.run_config) != offer.run:
        raise OtherRunError(
            "this node was told another run configuration, run or message group than the session was opened for: if "
            "the server is honest, SecAggGrid(run_config=...) must be the run's"
        )


@cache
def _warn_of_trust() -> None:
    """Warn once in each process."""
    _LOG.warning(
        "secagg: this node trusts the server: sessions are safe against a server that looks, but not against one that "
        "lies; secagg_mod(identity=..., enrolled=...) changes that"
    )


def _refusal(message: Message, reason: str) -> Message:
    return Message(Error(code=FAILED_PRECONDITION, reason=printable(REFUSAL + reason, REASON_LIMIT)), reply_to=message)

"""The records of a client's answers: each round's ranges, update and scores are answered once."""

from dataclasses import dataclass

from fl.aggregation.participation import open_participation
from fl.errors import ConfigError
from fl.network.announcement import RoundAnnouncement
from fl.network.offers import JoinOptions
from transport import ClientRecord
from transport.certificates.reading import CertificateError, identity_from
from transport.durable.participation import IN_MEMORY
from transport.tcp import Plaintext

DEFAULT_TRAINING = "default"


@dataclass(frozen=True, slots=True)
class AnswerRecords:
    """The records of answered updates, of ranges of updates, and of scores."""

    updates: ClientRecord
    ranges: ClientRecord
    scores: ClientRecord

    @classmethod
    def of_client(cls, options: JoinOptions) -> "AnswerRecords":
        """Return a client's records; ConfigError if they cannot be stored."""
        is_trial = isinstance(options.tls, Plaintext) and options.state is None
        try:
            participation = IN_MEMORY if is_trial else open_participation(options.state)
        except ConfigError as error:
            raise ConfigError(f"{error}; name another folder with --state") from None
        training = options.training or DEFAULT_TRAINING
        owner, most = _owner(options), options.max_rounds
        updates = ClientRecord(participation, owner, training=training, max_rounds=most)
        # The server may ask for ranges before the update, never after it.
        name = f"{training} (ranges)"
        ranges = ClientRecord(participation, owner, training=name, max_rounds=most, before=updates)
        return cls(
            updates, ranges, ClientRecord(participation, owner, training=f"{training} (scores)", max_rounds=most)
        )

    def of(self, announced: RoundAnnouncement) -> ClientRecord:
        """Return the record of answers of the announced kind."""
        if announced.purpose == "scores":
            return self.scores
        return self.ranges if announced.measures else self.updates


def _owner(options: JoinOptions) -> bytes:
    """Return the client's name in its records: its identity key, or its id if it has no key."""
    if options.identity_key is not None:
        try:
            return identity_from(options.identity_key).public_key
        except CertificateError:
            # TLS accepts other kinds of keys; malicious mode reports by itself that it needs this kind.
            pass
    return options.client_id.to_bytes(4, "big")

"""Faults of one client in a session of six, and the reasons why the server continues without it."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise

from secagg import Adversary, DropReason
from secagg.algebra.field import PRIME
from secagg.messages import AdvertiseKeys, ConsistencyCheck, MaskedInput, ShareKeys, UnmaskingShares
from secagg.sharing import ENCRYPTED_SHARES_BYTES
from tests.secagg.machines import ALICE, BAD_POINTS, CLIENT_MESSAGES, HONEST, MALICIOUS, MODES, kinds_of, script
from tests.support.sessions import Cohort, identity_of, make_params, random_inputs

IDS = (5, 8, 13, 21, 34, 55)
CULPRIT = 13
PARAMS = make_params(len(IDS), 4, vector_length=30, value_bits=12)
PARAMS_OF = {mode: replace(PARAMS, adversary=mode) for mode in MODES}
INPUTS = dict(zip(IDS, random_inputs(PARAMS, seed=21).values(), strict=True))


@dataclass(frozen=True)
class Misdeed:
    """A fault of CULPRIT when its message of one type is due: ``act(cohort, message)`` returns what is sent instead."""

    name: str
    reason: DropReason
    kind: type
    act: Callable
    adversary: Adversary = HONEST

    def __str__(self) -> str:
        return f"{self.kind.__name__}: {self.name} ({self.adversary.value})"

    @property
    def stays_in_sum(self) -> bool:
        """Return whether the culprit's masked input was in before the fault: then it cannot be taken out again."""
        input_came_first = self.act in (leaves_after_sending, sends_twice, sends_two_inputs)
        return self.kind in (ConsistencyCheck, UnmaskingShares) or (self.kind is MaskedInput and input_came_first)

    def run(self, missing_from):
        def uplink(client_id, message):
            due = client_id == CULPRIT and isinstance(message, self.kind)
            return self.act(cohort, message) if due else message

        params = PARAMS_OF[self.adversary]
        cohort = Cohort(params, INPUTS, missing_from, uplink=uplink, entropy_seed="misdeeds")
        return cohort.run()


def changed(**fields):
    """Send the message with some fields replaced; a function gets the old value."""

    def act(cohort, message):
        new = {name: value(getattr(message, name)) if callable(value) else value for name, value in fields.items()}
        return replace(message, **new)

    return act


def past_the_codec(act):
    """Hand the result of ``act`` to the server directly, since the codec would refuse it."""

    def pass_it(cohort, message):
        cohort.note(cohort.server.receive(CULPRIT, act(cohort, message)))

    return pass_it


def sends_twice(cohort, message):
    return [message, message]


def sends_two_inputs(cohort, message):
    return [message, replace(message, masked_input=message.masked_input[::-1].copy())]


def loses_it(cohort, message):
    return None


def leaves_after_sending(cohort, message):
    assert cohort.server.receive(CULPRIT, message) == ()
    cohort.note(cohort.server.drop(CULPRIT, DropReason.DISCONNECTED))


def leaves_instead(cohort, message):
    cohort.note(cohort.server.drop(CULPRIT, DropReason.DISCONNECTED))


def sends_an_earlier_one(kind):
    return lambda cohort, message: cohort.sent[kind][CULPRIT]


def sends_a_later_one(cohort, message):
    return replace(script().message(UnmaskingShares, ALICE), session_id=message.session_id)


def copies(name, from_name):
    """Advertise a key that the first client has already advertised, as a key of this or of the other kind."""

    def act(cohort, message):
        return replace(message, **{name: getattr(cohort.sent[AdvertiseKeys][IDS[0]], from_name)})

    return act


def has_one_key_for_both(cohort, message):
    return replace(message, mask_public_key=message.channel_public_key)


def is_signed_by(signer, session=None, signed_id=CULPRIT):
    """Advertise the keys with the identity of ``signer`` and a signature by it."""

    def act(cohort, message):
        statement = b"secagg/1 advertised keys" + (message.session_id if session is None else session)
        statement += signed_id.to_bytes(4, "big") + message.channel_public_key + message.mask_public_key
        identity = identity_of(signer)
        return replace(message, identity_key=identity.public_key, signature=identity.sign(statement))

    return act


def repeats_the_signature_of(client_id):
    return lambda cohort, message: replace(message, signature=cohort.sent[type(message)][client_id].signature)


def spoils_the_signature(cohort, message):
    return replace(message, signature=message.signature[:-1] + bytes([message.signature[-1] ^ 1]))


CHANNEL, MASK = "channel_public_key", "mask_public_key"

SHORTER = {"encrypted_shares": lambda data: data[:-ENCRYPTED_SHARES_BYTES]}

WRONG_SIZES = [
    ("shares for too few", ShareKeys, changed(**SHORTER)),
    ("no shares", ShareKeys, changed(encrypted_shares=b"")),
    ("a vector too short", MaskedInput, past_the_codec(changed(masked_input=lambda vector: vector[:-1]))),
    ("a scalar", MaskedInput, past_the_codec(changed(masked_input=lambda vector: vector[0]))),
    ("a vector of floats", MaskedInput, past_the_codec(changed(masked_input=lambda vector: vector.astype(float)))),
    ("a wider vector", MaskedInput, past_the_codec(changed(masked_input=lambda vector: vector.astype("<u4")))),
    ("a flag too few", UnmaskingShares, changed(held=lambda held: held[1:], shares=lambda shares: shares[1:])),
    ("no flags", UnmaskingShares, changed(held=(), shares=lambda shares: shares[:0])),
    ("more shares than flags", UnmaskingShares, past_the_codec(changed(held=lambda held: (False, *held[1:])))),
    ("fewer shares than flags", UnmaskingShares, past_the_codec(changed(shares=lambda shares: shares[1:]))),
    ("a share outside the field", UnmaskingShares, past_the_codec(changed(shares=lambda shares: shares | PRIME))),
    ("a pairwise key too many", UnmaskingShares, changed(pairwise_keys=lambda keys: keys + bytes(16))),
    ("half a pairwise key", UnmaskingShares, past_the_codec(changed(pairwise_keys=bytes(8)))),
    ("shares of fewer limbs", UnmaskingShares, past_the_codec(changed(shares=lambda shares: shares[:, :-1]))),
]

STRANGER = 4711


def misdeeds_of(mode) -> list[Misdeed]:
    kinds = kinds_of(mode, CLIENT_MESSAGES)
    return [
        Misdeed(name, reason, kind, act, mode)
        for name, reason, kind, act in [
            *(("late", DropReason.DEADLINE, kind, loses_it) for kind in kinds),
            *(("gone", DropReason.DISCONNECTED, kind, leaves_instead) for kind in kinds),
            *(("gone after it", DropReason.DISCONNECTED, kind, leaves_after_sending) for kind in kinds),
            *(("foreign", DropReason.WRONG_SESSION, kind, changed(session_id=bytes(32))) for kind in kinds),
            *(("twice", DropReason.DUPLICATE, kind, sends_twice) for kind in kinds),
            ("two different inputs", DropReason.DUPLICATE, MaskedInput, sends_two_inputs),
            *(("of a later round", DropReason.UNEXPECTED_MESSAGE, kind, sends_a_later_one) for kind in kinds[:-1]),
            *(
                ("of the round before", DropReason.UNEXPECTED_MESSAGE, kind, sends_an_earlier_one(earlier))
                for earlier, kind in pairwise(kinds)
            ),
            ("cut short", DropReason.MALFORMED, ShareKeys, changed(encrypted_shares=lambda data: data[:-1])),
            ("keys cut short", DropReason.MALFORMED, AdvertiseKeys, changed(mask_public_key=bytes(31))),
            ("no commitment", DropReason.MALFORMED, ShareKeys, changed(seed_commitment=b"")),
            (
                "a commitment cut short",
                DropReason.WRONG_SIZE,
                ShareKeys,
                past_the_codec(changed(seed_commitment=bytes(31))),
            ),
            *(
                (f"{field} of {name}", DropReason.INVALID_PUBLIC_KEY, AdvertiseKeys, changed(**{field: point}))
                for field in (CHANNEL, MASK)
                for name, point in BAD_POINTS.items()
            ),
            ("one key for both", DropReason.KEY_NOT_DISTINCT, AdvertiseKeys, has_one_key_for_both),
            *(
                (f"{own} is another's {other}", DropReason.KEY_NOT_DISTINCT, AdvertiseKeys, copies(own, other))
                for own in (CHANNEL, MASK)
                for other in (CHANNEL, MASK)
            ),
            *((name, DropReason.WRONG_SIZE, kind, act) for name, kind, act in WRONG_SIZES),
        ]
    ]


OF_SIGNATURES = [
    ("the signature spoiled", DropReason.INVALID_SIGNATURE, AdvertiseKeys, spoils_the_signature),
    ("signed for another session", DropReason.INVALID_SIGNATURE, AdvertiseKeys, is_signed_by(CULPRIT, bytes(32))),
    ("signed as another", DropReason.INVALID_SIGNATURE, AdvertiseKeys, is_signed_by(CULPRIT, signed_id=IDS[0])),
    ("another's signature", DropReason.INVALID_SIGNATURE, AdvertiseKeys, repeats_the_signature_of(IDS[0])),
    ("an identity of small order", DropReason.INVALID_SIGNATURE, AdvertiseKeys, changed(identity_key=bytes(32))),
    ("no identity key", DropReason.MALFORMED, AdvertiseKeys, changed(identity_key=b"")),
    ("no signature", DropReason.MALFORMED, AdvertiseKeys, changed(signature=b"")),
    ("nothing signed", DropReason.INVALID_SIGNATURE, AdvertiseKeys, past_the_codec(changed(signature=b""))),
    ("a new identity", DropReason.IDENTITY_NOT_TRUSTED, AdvertiseKeys, is_signed_by(STRANGER)),
    ("the identity of a later one", DropReason.IDENTITY_NOT_TRUSTED, AdvertiseKeys, is_signed_by(IDS[-1])),
    ("the identity of an earlier one", DropReason.IDENTITY_NOT_DISTINCT, AdvertiseKeys, is_signed_by(IDS[0])),
    ("the signature spoiled", DropReason.INVALID_SIGNATURE, ConsistencyCheck, spoils_the_signature),
    ("another's signature", DropReason.INVALID_SIGNATURE, ConsistencyCheck, repeats_the_signature_of(IDS[0])),
    ("no signature", DropReason.MALFORMED, ConsistencyCheck, changed(signature=b"")),
    (
        "the signature of its keys",
        DropReason.INVALID_SIGNATURE,
        ConsistencyCheck,
        lambda cohort, message: replace(message, signature=cohort.sent[AdvertiseKeys][CULPRIT].signature),
    ),
]

MISDEEDS = [
    *misdeeds_of(HONEST),
    Misdeed("an identity", DropReason.MALFORMED, AdvertiseKeys, is_signed_by(CULPRIT)),
    Misdeed("an identity key", DropReason.WRONG_SIZE, AdvertiseKeys, past_the_codec(changed(identity_key=bytes(32)))),
    Misdeed("a signature", DropReason.WRONG_SIZE, AdvertiseKeys, past_the_codec(changed(signature=bytes(64)))),
    *misdeeds_of(MALICIOUS),
    *(Misdeed(name, reason, kind, act, MALICIOUS) for name, reason, kind, act in OF_SIGNATURES),
]

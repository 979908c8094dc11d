"""Identities, and the directories that vouch for them."""

import copy
import pickle
import warnings
from typing import Any

import pytest

from secagg import (
    Adversary,
    Client,
    ClientPhase,
    DropReason,
    Identity,
    KeyDirectory,
    LocalProtocolError,
    PinnedKeys,
    RemoteProtocolError,
    Rule,
    Server,
    TrustOnFirstUse,
    TrustOnFirstUseWarning,
)
from secagg.messages import AdvertiseKeys, PeerKeys
from secagg.session import session_id
from tests import reference
from tests.secagg.machines import ALICE, CONTEXT, IDS, MALICIOUS, PARAMS, SIGNED_PARAMS, script
from tests.secagg.test_signing import NO_KEYS
from tests.support.sessions import SeededEntropy, directory_of, identity_of, make_params

SECRET = bytes(range(100, 132))


def key_of(client_id: int) -> bytes:
    return identity_of(client_id).public_key


# --- Identities ------------------------------------------------------------------------------------------------------


def test_an_identity_is_an_ed25519_key_pair():
    identity = Identity(SECRET)
    assert identity.to_bytes() == SECRET
    assert identity.public_key == reference.ed25519_public(SECRET)
    assert identity.sign(b"statement") == reference.ed25519_sign(SECRET, b"statement")


def test_a_new_identity_is_drawn_from_the_source():
    assert Identity.generate().to_bytes() != Identity.generate().to_bytes()
    entropy = SeededEntropy("identity")
    identity = Identity.generate(entropy)
    assert [identity.to_bytes()] == entropy.draws
    with pytest.raises(LocalProtocolError, match="entropy"):
        Identity.generate(lambda size: bytes(size - 1))


@pytest.mark.parametrize("secret_key", [b"", bytes(31), bytes(33), bytearray(32), "x" * 32, None, 7], ids=repr)
def test_invalid_secret_keys_are_refused(secret_key):
    with pytest.raises(LocalProtocolError, match="32 bytes"):
        Identity(secret_key)


def test_an_identity_does_not_show_its_secret():
    shown = f"{Identity(SECRET)!r} {Identity(SECRET)} {Identity(SECRET)!s}"
    assert "redacted" in shown
    for form in (SECRET.hex(), repr(SECRET)[2:-1], repr(SECRET[:8])[2:-1], str(list(SECRET))[1:-1]):
        assert form not in shown


@pytest.mark.parametrize(
    "duplicate",
    [copy.copy, copy.deepcopy, *(lambda x, p=p: pickle.dumps(x, p) for p in range(pickle.HIGHEST_PROTOCOL + 1))],
)
def test_an_identity_is_not_copied_or_pickled(duplicate):
    """A copy could travel by accident to other processes, or into a cache."""
    with pytest.raises(TypeError, match="not pickled"):
        duplicate(Identity(SECRET))


def test_an_identity_has_no_room_for_stray_attributes():
    with pytest.raises(AttributeError):
        Identity(SECRET).note = 1  # type: ignore[attr-defined]


# --- Directories -----------------------------------------------------------------------------------------------------


def test_pinned_keys_trust_what_was_registered_and_nothing_else():
    directory = directory_of([1, 2, 2**32 - 1])
    assert isinstance(directory, KeyDirectory)
    assert directory.is_trusted(1, key_of(1))
    assert directory.is_trusted(2**32 - 1, key_of(2**32 - 1))
    assert not directory.is_trusted(1, key_of(2))
    assert not directory.is_trusted(3, key_of(3))
    assert not directory.is_trusted(1, b"")
    assert repr(directory) == "PinnedKeys(3 clients)"


def test_pinned_keys_are_those_of_the_moment_of_registration():
    keys = {1: key_of(1)}
    directory = PinnedKeys(keys)
    keys[2] = key_of(2)
    assert not directory.is_trusted(2, key_of(2))


@pytest.mark.parametrize("kind", [PinnedKeys, TrustOnFirstUse])
@pytest.mark.parametrize(
    ("keys", "match"),
    [
        ([(1, key_of(1))], "mapping"),
        (key_of(1), "mapping"),
        ({-1: key_of(1)}, "-1"),
        ({2**32: key_of(1)}, "4294967296"),
        ({True: key_of(1)}, "True"),
        ({"1": key_of(1)}, "'1'"),
        ({1: key_of(1), 2: key_of(1)}, "same identity key"),
        ({1: None}, "client 1"),
        ({1: bytearray(key_of(1))}, "client 1"),
        ({1: key_of(1)[:-1]}, "client 1"),
        *(({1: key}, "not a valid Ed25519") for key in NO_KEYS.values()),
    ],
)
def test_invalid_lists_of_keys_are_refused(kind, keys, match):
    with pytest.raises(LocalProtocolError, match=match):
        kind(keys)


def test_the_first_key_is_taken_with_a_warning_and_held_on_to():
    directory = TrustOnFirstUse()
    assert isinstance(directory, KeyDirectory)
    assert directory.is_trusted(1, key_of(1))
    assert directory.keys == {}, "it was asked, and has learned no key"
    with pytest.warns(TrustOnFirstUseWarning, match=f"client 1 is new.*{key_of(1).hex()}"):
        directory.learn({1: key_of(1)})
    assert directory.keys == {1: key_of(1)}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert directory.is_trusted(1, key_of(1)), "known by now: no warning"
        assert not directory.is_trusted(1, key_of(2)), "a changed key"
        assert not directory.is_trusted(3, key_of(1)), "one key for two ids"
        directory.learn({1: key_of(2), 3: key_of(1)})
    assert directory.keys == {1: key_of(1)}, "an untrusted key is not learned"
    assert repr(directory) == "TrustOnFirstUse(1 clients)"


def test_earlier_keys_are_taken_over_and_can_be_stored():
    directory = TrustOnFirstUse({1: key_of(1)})
    directory.keys[2] = key_of(2)
    assert directory.keys == {1: key_of(1)}, "a copy"
    with pytest.warns(TrustOnFirstUseWarning):
        directory.learn({2: key_of(2)})
    again = TrustOnFirstUse(directory.keys)
    assert again.is_trusted(2, key_of(2))
    assert not again.is_trusted(2, key_of(3))


def alice_with(directory: KeyDirectory) -> Client:
    """Return a client that waits for its list of keys."""
    client = Client(
        SIGNED_PARAMS,
        ALICE,
        context=CONTEXT,
        nonce=b"nonce",
        identity=identity_of(ALICE),
        directory=directory,
        entropy=SeededEntropy(f"script/{ALICE}"),
    )
    client.start()
    return client


@pytest.mark.parametrize("known", IDS[2:])
def test_a_list_with_a_key_that_is_not_trusted_teaches_a_directory_nothing(known):
    """Not even the keys before it are learned, or a server could teach a client keys in lists that it refuses."""
    seen = {known: key_of(4711)}
    directory = TrustOnFirstUse(seen)
    client = alice_with(directory)
    with pytest.raises(RemoteProtocolError) as refusal:
        client.receive(script(MALICIOUS).message(PeerKeys, ALICE))
    assert refusal.value.rule is Rule.IDENTITY_NOT_TRUSTED
    assert refusal.value.culprits == (known,)
    assert directory.keys == seen


def test_a_list_that_is_refused_for_another_reason_teaches_a_directory_nothing():
    directory = TrustOnFirstUse()
    message = script(MALICIOUS).message(PeerKeys, ALICE)
    spoiled = bytearray(message.signatures)
    spoiled[-1] ^= 1
    client = alice_with(directory)
    with pytest.raises(RemoteProtocolError) as refusal:
        client.receive(PeerKeys(**{**fields_of(message), "signatures": bytes(spoiled)}))
    assert refusal.value.rule is Rule.INVALID_SIGNATURE
    assert directory.keys == {}


def fields_of(message: PeerKeys) -> dict[str, Any]:
    return {name: getattr(message, name) for name in PeerKeys.__slots__}


def test_a_directory_of_first_uses_learns_all_peers_in_one_session():
    directory = TrustOnFirstUse()
    client = alice_with(directory)
    with pytest.warns(TrustOnFirstUseWarning) as caught:
        client.receive(script(MALICIOUS).message(PeerKeys, ALICE))
    assert len(caught) == 4
    assert directory.keys == {i: key_of(i) for i in IDS if i != ALICE}
    assert client.phase is ClientPhase.SHARED_KEYS


@pytest.mark.filterwarnings("error")
def test_where_warnings_are_errors_nothing_is_learned():
    directory = TrustOnFirstUse()
    with pytest.raises(TrustOnFirstUseWarning):
        alice_with(directory).receive(script(MALICIOUS).message(PeerKeys, ALICE))
    assert directory.keys == {}


def test_a_new_key_is_not_compared_with_all_that_are_known():
    """A server may list any number of new clients."""
    compared = 0

    class Counted(bytes):
        __hash__ = bytes.__hash__

        def __eq__(self, other: object) -> bool:
            nonlocal compared
            compared += 1
            return bytes.__eq__(self, other)

    directory = TrustOnFirstUse({client_id: key_of(client_id) for client_id in range(100)})
    assert directory.is_trusted(100, Counted(key_of(100)))
    assert not directory.is_trusted(100, Counted(key_of(99)))
    assert compared < 5


def test_a_server_learns_the_keys_of_accepted_clients():
    directory = TrustOnFirstUse({IDS[0]: key_of(4711)})
    server = Server(SIGNED_PARAMS, IDS, context=CONTEXT, nonce=b"nonce", directory=directory)
    with pytest.warns(TrustOnFirstUseWarning):
        dropped = [server.receive(i, said) for i, said in script(MALICIOUS).client_messages[AdvertiseKeys].items()]
    assert [event.reason for events in dropped for event in events] == [DropReason.IDENTITY_NOT_TRUSTED]
    assert directory.keys == {i: key_of(i) for i in IDS[1:]} | {IDS[0]: key_of(4711)}


# --- Requirements of the machines -------------------------------------------------------------------------------------

SIGNED = {"nonce": b"nonce", "identity": identity_of(1), "directory": directory_of(range(5))}


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"identity": None}, "needs the client's identity"),
        ({"identity": SECRET}, "needs the client's identity"),
        ({"identity": Identity}, "needs the client's identity"),
        ({"directory": None}, "needs a directory"),
        ({"directory": {1: key_of(1)}}, "needs a directory"),
        ({"nonce": b""}, "needs a nonce"),
    ],
    ids=repr,
)
def test_malicious_mode_needs_an_identity_a_directory_and_a_nonce(change, match):
    with pytest.raises(LocalProtocolError, match=match):
        Client(SIGNED_PARAMS, 1, **{**SIGNED, **change})
    if "identity" not in change:
        options = {name: value for name, value in {**SIGNED, **change}.items() if name != "identity"}
        with pytest.raises(LocalProtocolError, match=match):
            Server(SIGNED_PARAMS, **options)


@pytest.mark.parametrize("adversary", [Adversary.HONEST_BUT_CURIOUS, Adversary.SEMI_MALICIOUS], ids=lambda a: a.value)
@pytest.mark.parametrize("name", ["identity", "directory"])
def test_the_other_modes_take_neither_identity_nor_directory(adversary, name):
    """A host that passes one expects that something is signed."""
    params = make_params(5, 3, adversary=adversary)
    with pytest.raises(
        LocalProtocolError, match=f"leave out the {name}: only malicious mode takes one, not {adversary.value} mode"
    ):
        Client(params, 1, **{name: SIGNED[name]})
    if name == "directory":
        with pytest.raises(LocalProtocolError, match=adversary.value):
            Server(params, directory=SIGNED[name])


def test_other_modes_do_without_a_nonce():
    assert session_id(PARAMS, nonce=b"", context=b"") != session_id(PARAMS, nonce=b"n", context=b"")
    with pytest.raises(LocalProtocolError, match="replayed"):
        session_id(SIGNED_PARAMS, nonce=b"", context=b"context")


@pytest.mark.parametrize("directory", [directory_of(IDS), TrustOnFirstUse()], ids=["pinned", "first use"])
def test_a_custom_directory_will_do(directory):
    class Delegating:
        def is_trusted(self, client_id: int, identity_key: bytes) -> bool:
            return True

    assert isinstance(Delegating(), KeyDirectory)
    client = alice_with(Delegating())
    client.receive(script(MALICIOUS).message(PeerKeys, ALICE))
    assert client.phase is ClientPhase.SHARED_KEYS
    Server(SIGNED_PARAMS, nonce=b"nonce", directory=directory)

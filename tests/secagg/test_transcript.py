"""The transcript shows an operator later why a session ended, and holds nothing secret."""

import hashlib
import json

import pytest

import secagg
from secagg import Adversary, Completed, RemoteProtocolError, Round, Rule, TranscriptKind
from secagg.messages import PeerKeys, SurvivorList, UnmaskingShares
from tests.secagg.machines import MODES
from tests.support.sessions import BEFORE_INPUT, Cohort, make_params, random_inputs

PARAMS = make_params(7, 4, adversary=Adversary.MALICIOUS)


def run(**changes) -> Cohort:
    return Cohort(PARAMS, random_inputs(PARAMS, seed=3), entropy_seed="transcript", **changes).run()


def lines(entries, what=None):
    return [(entry.round, entry.subject, entry.clients) for entry in entries if what in (None, entry.what)]


@pytest.mark.parametrize("suspend", [False, True])
def test_a_client_notes_every_message_and_list(suspend):
    entries = run(missing_from={6: BEFORE_INPUT}, suspend=suspend).clients[2].transcript
    everyone, survivors = tuple(range(7)), tuple(range(6))
    assert lines(entries, TranscriptKind.RECEIVED) == [
        (Round.SHARE_KEYS, "PeerKeys", everyone),
        (Round.MASKED_INPUT_COLLECTION, "PeerShares", everyone),
        (Round.CONSISTENCY_CHECK, "SurvivorList", survivors),
        (Round.UNMASKING, "ConsistencyProof", survivors),
    ]
    sent = ["AdvertiseKeys", "ShareKeys", "MaskedInput", "ConsistencyCheck", "UnmaskingShares"]
    assert [entry.subject for entry in entries if entry.what is TranscriptKind.SENT] == sent


def test_the_server_records_answers_drops_and_its_messages():
    entries = run(missing_from={6: BEFORE_INPUT}).server.transcript
    everyone, survivors = tuple(range(7)), tuple(range(6))
    assert lines(entries, TranscriptKind.DROPPED) == [(Round.MASKED_INPUT_COLLECTION, "DEADLINE", (6,))]
    assert [entry.clients for entry in entries if entry.what is TranscriptKind.RECEIVED] == [everyone] * 2 + [
        survivors
    ] * 3
    assert lines(entries, TranscriptKind.SENT) == [
        (Round.SHARE_KEYS, "PeerKeys", everyone),
        (Round.MASKED_INPUT_COLLECTION, "PeerShares", everyone),
        (Round.CONSISTENCY_CHECK, "SurvivorList", survivors),
        (Round.UNMASKING, "ConsistencyProof", survivors),
    ]
    assert lines(entries, TranscriptKind.COMPLETED) == [(Round.UNMASKING, "", survivors)]


def test_hashes_are_of_the_bytes_that_travelled_and_agree_on_both_sides():
    seen = {}

    def downlink(client_id, message):
        seen[client_id, type(message).__name__] = hashlib.sha256(secagg.encode(message, PARAMS)).digest()
        return message

    cohort = run(downlink=downlink)
    received = {
        entry.subject: entry.digest for entry in cohort.clients[4].transcript if entry.what is TranscriptKind.RECEIVED
    }
    sent = {entry.subject: entry.digest for entry in cohort.server.transcript if entry.what is TranscriptKind.SENT}
    assert received == {name: digest for (client_id, name), digest in seen.items() if client_id == 4}
    for name in ("PeerKeys", "SurvivorList"):
        assert sent[name] == received[name] != b""


def test_a_client_with_a_different_message_has_another_hash():
    def downlink(client_id, message):
        if isinstance(message, SurvivorList) and client_id == 3:
            return SurvivorList(message.session_id, (*message.survivors[:-1], False))
        return message

    cohort = run(downlink=downlink)
    of = {
        i: next(entry.digest for entry in client.transcript if entry.subject == "SurvivorList")
        for i, client in cohort.clients.items()
    }
    assert of[3] != of[2] == of[4]


def test_a_refusal_is_noted_with_its_rule():
    def downlink(client_id, message):
        if isinstance(message, SurvivorList) and client_id == 1:
            return SurvivorList(message.session_id, (False,) * 7)
        return message

    cohort = run(downlink=downlink)
    assert isinstance(cohort.refused[1], RemoteProtocolError)
    *_, received, refused = cohort.clients[1].transcript
    assert (received.what, received.subject) == (TranscriptKind.RECEIVED, "SurvivorList")
    assert (refused.what, refused.round) == (TranscriptKind.REFUSED, Round.CONSISTENCY_CHECK)
    assert refused.subject == Rule.SELF_MISSING.name
    assert isinstance(cohort.end, Completed)


def test_disputes_and_aborts_are_noted():
    def uplink(client_id, message):
        if isinstance(message, UnmaskingShares) and client_id == 2:
            shares = message.shares.copy()
            shares[0, 0] ^= 1
            return UnmaskingShares(message.session_id, message.held, shares)
        return message

    cohort = run(uplink=uplink)
    assert lines(cohort.server.transcript, TranscriptKind.DISPUTED) == [(Round.UNMASKING, "WRONG", (0, 2))]
    cohort = run(missing_from=dict.fromkeys(range(4), BEFORE_INPUT))
    (aborted,) = [entry for entry in cohort.server.transcript if entry.what is TranscriptKind.ABORTED]
    assert (aborted.round, aborted.subject) == (Round.MASKED_INPUT_COLLECTION, "TOO_FEW_CLIENTS")


def test_shares_that_did_not_authenticate_are_noted_on_both_sides():
    def uplink(client_id, message):
        if type(message).__name__ == "ShareKeys" and client_id == 5:
            return type(message)(message.session_id, message.seed_commitment, bytes(len(message.encrypted_shares)))
        return message

    cohort = run(uplink=uplink)
    rejected = [entry.clients for entry in cohort.clients[0].transcript if entry.what is TranscriptKind.REJECTED_SHARES]
    assert rejected == [(5,)]
    assert {entry.clients[0] for entry in cohort.server.transcript if entry.what is TranscriptKind.DISPUTED} == {5}


@pytest.mark.parametrize("adversary", MODES)
def test_no_secret_is_in_it(adversary):
    """Neither drawn nor released secrets are in it, by value or by hash."""
    params = make_params(5, 3, adversary=adversary)
    cohort = Cohort(params, random_inputs(params, seed=4), entropy_seed="secret", missing_from={4: BEFORE_INPUT})
    cohort.run()
    transcripts = [cohort.server.transcript, *(client.transcript for client in cohort.clients.values())]
    text = json.dumps([[entry.to_json() for entry in entries] for entries in transcripts])
    text += "".join(str(entry) for entries in transcripts for entry in entries)
    for entropy in cohort.entropy.values():
        for drawn in entropy.draws:
            assert drawn.hex() not in text
            assert hashlib.sha256(drawn).hexdigest() not in text
    for message in cohort.sent[UnmaskingShares].values():
        assert hashlib.sha256(secagg.encode(message, params)).hexdigest() not in text


def test_strangers_do_not_fill_it():
    server = run().server
    fresh = secagg.Server(make_params(5, 3))
    message = PeerKeys(fresh.session_id, (), b"", b"")
    for stranger in range(1000, 1500):
        fresh.receive(stranger, message)
    assert fresh.transcript == ()
    assert len(server.transcript) < 30

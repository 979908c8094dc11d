"""The details of a refusal beyond its rule: the numbers, sizes and clients that let a host find the fault."""

import pytest

from secagg import ClientPhase, RemoteProtocolError, Rule
from secagg.messages import ConsistencyProof, PeerKeys, PeerShares, SurvivorList
from tests.secagg.client_cases import BROKEN, MASK, OTHERS, resized, with_item, with_shared, with_survivors
from tests.secagg.machines import (
    ALICE,
    BAD_POINTS,
    MALICIOUS,
    SERVER_MESSAGES,
    Halt,
    Script,
    halts,
    script,
    sparse_script,
)
from tests.secagg.test_consistency import member_digest, own_view, proof, proof_of, signers, views
from tests.support.sessions import make_params, random_inputs

OTHER_PEERS = "encrypted shares that do not match the peers that shared keys"
OWN_VIEWS = "separate views on the complete graph"

OF_CASE = {
    "keys of two clients": "2 including this client, but at least 3 are needed",
    "keys of this client alone": "1 including this client, but at least 3 are needed",
    "two clients shared": "2 including this client, but at least 3 are needed",
    "two clients survive": "2 including this client, but at least 3 are needed",
    "two signed": "2 including this client, but at least 3 are needed",
    "only this client signed": "1 including this client, but at least 3 are needed",
    "six clients": "6, but at most 5",
    "a client too few": "the keys do not match the 4 clients listed",
    "a flag too few": "4 flags for 5 clients",
    "a flag too many": "6 flags for 5 clients",
    "no flags": "0 flags for 5 clients",
    "a survivor's flag too few": "4 flags for 5 clients",
    "a survivor's flag too many": "6 flags for 5 clients",
    "no survivors' flags": "0 flags for 5 clients",
    "no flags of signers": "0 flags for 5 clients",
    "a share too few": OTHER_PEERS,
    "a share too many": OTHER_PEERS,
    "a share's byte too few": OTHER_PEERS,
    f"damaged shares of {(3, 1000, 2**32 - 1)}": "2 of the 3 needed",
    f"damaged shares of {OTHERS}": "1 of the 3 needed",
    "flags of views on the complete graph": OWN_VIEWS,
    "members of views on the complete graph": OWN_VIEWS,
    "one that vanished signed": "clients 1000",
    "two bad signatures of three": "2 of the 3 needed",
    "three bad signatures": "1 of the 3 needed",
    "a bad signature where the quorum signed": "2 of the 3 needed",
}


def detail_of(case) -> str:
    if case.name in OF_CASE:
        return OF_CASE[case.name]
    if case.rule is Rule.WRONG_SIZE:
        what = "the keys do not match the 5 clients listed"
        return what if case.kind is PeerKeys else "the signatures do not match the 3 clients flagged"
    return f"of clients {', '.join(map(str, case.culprits))}" if case.culprits else ""


def refusal_by(client, message) -> RemoteProtocolError:
    with pytest.raises(RemoteProtocolError) as refusal:
        client.receive(message)
    return refusal.value


@pytest.mark.parametrize("broken", BROKEN, ids=str)
def test_a_broken_rule_is_reported_with_its_cause(broken):
    refusal = refusal_by(broken.client(), broken.message())
    assert refusal.detail == detail_of(broken.case)
    assert str(refusal) == f"the server sent {broken.case.rule.value}" + (f": {refusal.detail}" * bool(refusal.detail))


def test_every_detail_belongs_to_a_case():
    assert OF_CASE.keys() <= {broken.case.name for broken in BROKEN}


@pytest.mark.parametrize("kind", SERVER_MESSAGES, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("halt", halts([ClientPhase.CREATED, ClientPhase.INPUT_REQUESTED]), ids=str)
def test_a_message_out_of_turn_is_reported_with_the_phase(halt, kind):
    refusal = refusal_by(halt.client(), halt.script.message(kind, ALICE))
    assert (refusal.rule, refusal.detail) == (Rule.UNEXPECTED_MESSAGE, f"{kind.__name__} in phase {halt.phase.name}")
    assert refusal.culprits == ()


def test_survivors_that_had_not_shared_their_keys_are_named():
    client = Halt(MALICIOUS, ClientPhase.SHARED_KEYS).client()
    recorded = script(MALICIOUS)
    client.receive(with_shared(1, 2, 3)(recorded.message(PeerShares, ALICE)))
    client.submit_input(recorded.inputs[ALICE])
    refusal = refusal_by(client, with_survivors(0, 1, 2, 4)(recorded.message(SurvivorList, ALICE)))
    assert (refusal.rule, refusal.detail) == (Rule.SURVIVORS_NOT_SUBSET, "clients 3, 4294967295")


# --- Views on the sparse graph ---------------------------------------------------------------------------------------


def refusal_of(message: ConsistencyProof) -> tuple[Rule, str]:
    client, _ = sparse_script().client(ClientPhase.SURVIVORS_SIGNED, ALICE)
    refusal = refusal_by(client, message)
    return refusal.rule, refusal.detail


def test_views_of_a_wrong_size_are_reported():
    for name, change in [("common", -1), ("common", 1), ("others", -1), ("others", 1)]:
        told = "the views do not match the 5 clients flagged"
        assert refusal_of(resized(name, change)(proof())) == (Rule.WRONG_SIZE, told)
    assert refusal_of(resized("others", 32)(proof())) == (
        Rule.WRONG_SIZE,
        "views whose size differs from this client's",
    )


def test_one_view_of_a_wrong_size_is_reported():
    told = "a view whose size differs from this client's"
    bits, digests = views()[0]
    behind = proof_of([(bits | 0x80, digests), *views()[1:]])
    assert refusal_of(behind) == (Rule.WRONG_SIZE, told)
    assert refusal_of(resized("others", -32)(proof())) == (Rule.WRONG_SIZE, told)


def test_a_view_without_its_reader_is_reported():
    bits, digests = views()[0]
    without = proof_of([(bits ^ 1 << own_view().index(ALICE), [*digests, bytes(32)]), *views()[1:]])
    assert refusal_of(without) == (Rule.VIEWS_CONTRADICT, "without this client")


def test_a_view_without_its_signer_is_reported_with_the_client():
    bits, digests = views()[0]
    signer = signers()[0]
    without = proof_of([(bits ^ 1 << own_view().index(signer), [*digests, bytes(32)]), *views()[1:]])
    assert refusal_of(without) == (Rule.VIEWS_CONTRADICT, f"without its signer, client {signer}")


def test_a_hidden_member_is_reported_by_the_rule_alone():
    """Digests do not name their clients, so there are no details."""
    bits, digests = views()[0]
    member = next(i for i in range(7) if bits >> i & 1 and own_view()[i] != ALICE)
    hidden = member_digest(sparse_script(), own_view()[member], 1)
    contradicting = proof_of([(bits ^ 1 << member, [*digests, hidden]), *views()[1:]])
    assert refusal_of(contradicting) == (Rule.VIEWS_CONTRADICT, "")


# --- Long lists ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("num_bad", "told"),
    [
        (1, "of clients 1"),
        (10, "of clients 1, 2, 3, 4, 5, 6, 7, 8, 9, 10"),
        (11, "of clients 1, 2, 3, 4, 5, 6, 7, 8, 9, 10 and 1 more"),
    ],
)
def test_ten_clients_are_named_and_the_rest_counted(num_bad, told):
    params = make_params(12, 3)
    recorded = Script(params, random_inputs(params, seed=1), {}, seed="many")
    message = recorded.message(PeerKeys, 0)
    for place, point in zip(range(1, num_bad + 1), BAD_POINTS.values(), strict=False):
        message = with_item(MASK, place, point)(message)
    client, _ = recorded.client(ClientPhase.ADVERTISED, 0)
    refusal = refusal_by(client, message)
    assert (refusal.rule, refusal.detail) == (Rule.INVALID_PUBLIC_KEY, told)
    assert refusal.culprits == tuple(range(1, num_bad + 1))

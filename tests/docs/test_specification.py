"""The specification matches the code: generated parts, names, sizes, links; and its formulas give the code's bytes."""

import re
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

import secagg
from secagg import (
    AbortReason,
    Adversary,
    DropReason,
    GraphKind,
    Parameters,
    Round,
    Rule,
    ShareFault,
    plan,
)
from secagg._server.share_recovery import recover_secrets
from secagg.messages import (
    AdvertiseKeys,
    ConsistencyCheck,
    ConsistencyProof,
    MaskedInput,
    PeerKeys,
    PeerShares,
    ShareKeys,
    SurvivorList,
    UnmaskingShares,
)
from secagg.primitives import labels
from secagg.primitives.prg import KeystreamReader
from secagg.sharing import coefficient_source, share_seeds
from tests.docs.formulas import (
    FILES,
    PRIME,
    PROTOCOL,
    ROOT,
    THREATS,
    WIRE,
    Document,
    SparseSession,
    id_bytes,
    is_signed,
    keystream,
    message_costs,
    tagged_hash,
    view_member,
)
from tests.support.sessions import Cohort, make_params, random_inputs

TYPES = {
    1: AdvertiseKeys,
    2: PeerKeys,
    3: ShareKeys,
    4: PeerShares,
    5: MaskedInput,
    6: SurvivorList,
    7: UnmaskingShares,
    8: ConsistencyCheck,
    9: ConsistencyProof,
}

LABELS = {name: value for name, value in vars(labels).items() if isinstance(value, bytes)}


@pytest.mark.parametrize("side", ["client", "server"])
def test_every_adversary_has_its_state_table(side) -> None:
    """`cog --check` keeps the tables up to date; this checks which adversaries have one."""
    shown = re.findall(rf"{side}_states\((.*)\)\)", PROTOCOL)
    assert sorted(re.findall(r'"(.+?)"', " ".join(shown))) == sorted(adversary.value for adversary in Adversary)


class TestNames:
    @pytest.mark.parametrize("kind", [Rule, DropReason, AbortReason, ShareFault])
    def test_every_member_is_explained_outside_of_the_tables(self, kind) -> None:
        written = re.sub(r"<!-- \[\[\[cog.*?\[\[\[end\]\]\]", "", PROTOCOL, flags=re.DOTALL)
        assert [member.name for member in kind if f"`{member.name}`" not in written] == []

    def test_every_round_has_its_section(self) -> None:
        assert set(re.findall(r"^### (\w+)$", PROTOCOL, flags=re.MULTILINE)) >= {round_.value for round_ in Round}

    def test_every_label_stands_in_the_table_of_labels(self) -> None:
        rows = re.findall(r"^\| `([A-Z_]+)` \| `([^`]+)` \|", PROTOCOL, flags=re.MULTILINE)
        assert {name: value.encode() for name, value in rows} == LABELS

    def test_no_formula_uses_an_unknown_label(self) -> None:
        used = set(re.findall(r"\"(secagg/1 [^\"]+)\"", PROTOCOL))
        assert {label.encode() for label in used} <= set(LABELS.values())

    def test_every_parameter_has_its_row(self) -> None:
        section = PROTOCOL.split("## Parameters")[1].split("## Session id")[0]
        rows = re.findall(r"^\| `(\w+)` \|", section, flags=re.MULTILINE)
        assert sorted(rows) == sorted(Parameters.__dataclass_fields__)

    def test_every_message_type_has_its_fields_limits_dump_and_cost(self) -> None:
        fields = re.findall(r"^\| (\d) \| `(\w+)` \|", WIRE, flags=re.MULTILINE)
        assert {int(code): name for code, name in fields} == {code: kind.__name__ for code, kind in TYPES.items()}
        assert set(re.findall(r"^\| (\d) \| (?!`)", WIRE, flags=re.MULTILINE)) == set(map(str, TYPES))
        for kind in TYPES.values():
            assert f"\n{kind.__name__}, as client 3 " in WIRE
            assert f"\n| `{kind.__name__}` | " in WIRE
            assert f"`{kind.__name__}`" in PROTOCOL

    def test_every_adversary_is_modelled(self) -> None:
        assert [adversary for adversary in Adversary if f"| `{adversary.name}` |" not in THREATS] == []

    def test_rounds_and_rules_of_signed_sessions_name_both_signed_modes(self) -> None:
        alone = re.findall(r"^\|[^|]*malicious mode:[^|]*\| `(\w+)` \|", PROTOCOL, flags=re.MULTILINE)
        assert set(alone) == {Rule.IDENTITY_NOT_TRUSTED.name}


class TestLinks:
    @pytest.mark.parametrize("name", FILES)
    def test_every_relative_link_leads_to_a_file_and_a_heading(self, name) -> None:
        path = ROOT / name
        links = re.findall(r"\]\(((?!https?:)[^)]+)\)", path.read_text(encoding="utf-8"))
        assert links
        for link in links:
            file, _, anchor = link.partition("#")
            target = (path.parent / file).resolve() if file else path
            assert target.is_file(), link
            assert not anchor or anchor in _anchors(target), link

    @pytest.mark.parametrize("name", FILES)
    def test_the_text_is_plain_ascii(self, name) -> None:
        assert (ROOT / name).read_text(encoding="utf-8").isascii()


def _anchors(path: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


class TestSizes:
    @pytest.mark.parametrize("adversary", list(Adversary))
    @pytest.mark.parametrize(("num_clients", "degree", "threshold"), [(7, 6, 4), (20, 12, 8)])
    def test_the_costs_are_those_of_a_session(self, adversary, num_clients, degree, threshold) -> None:
        params = make_params(num_clients, threshold, vector_length=37, degree=degree, adversary=adversary)
        sizes: dict[type, set[int]] = {}

        def measure(client_id, message):
            sizes.setdefault(type(message), set()).add(len(secagg.encode(message, params)))
            return message

        outcome = Cohort(params, random_inputs(params, 1), uplink=measure, downlink=measure).run()
        assert isinstance(outcome.end, secagg.Completed)
        vector_bytes = (37 * params.ring_bits + 7) // 8
        costs = message_costs(degree + 1, vector_bytes, signed=is_signed(adversary), sparse=not params.is_complete)
        assert sizes == {kind: {size} for kind, size in costs.items()}

    @pytest.mark.parametrize("signed", [False, True])
    def test_the_examples_of_the_document(self, signed) -> None:
        modes = [adversary.value for adversary in Adversary if is_signed(adversary) is signed]
        totals = []
        for h, sparse in ((100, False), (53, True)):
            costs = message_costs(h, 0, signed=signed, sparse=sparse)
            totals.append(sum(costs.values()) - costs[MaskedInput])
        assert f"| {', '.join(modes)} | {totals[0]:,} | {totals[1]:,} |" in WIRE

    @pytest.mark.parametrize("adversary", list(Adversary))
    @pytest.mark.parametrize(("num_clients", "degree"), [(2, 1), (9, 8), (40, 12), (1000, 999), (1000, 52)])
    @pytest.mark.parametrize("vector_length", [1, 10**6])
    def test_the_longest_message(self, adversary, num_clients, degree, vector_length) -> None:
        params = make_params(
            num_clients, max(2, degree * 3 // 4 + 1), vector_length=vector_length, degree=degree, adversary=adversary
        )
        h, f = degree + 1, (degree + 1) // 8 + 1
        s = 96 if is_signed(adversary) else 0
        view = 0 if params.is_complete else f + 32 * h
        longest = [h * (68 + s), 52 * h + 32 + f, (vector_length * params.ring_bits + 7) // 8]
        longest += [h * (64 + view) + f] if is_signed(adversary) else []
        assert secagg.max_message_bytes(params) == 96 + max(longest)


SIGNED = pytest.mark.parametrize("mode", ["semi-malicious", "malicious"])


class TestFormulas:
    """The computations of docs/protocol.md, repeated here, give the bytes that docs/wire-format.md shows."""

    @pytest.mark.parametrize(("code", "mode"), list(enumerate(("honest-but-curious", "semi-malicious", "malicious"))))
    def test_session_id(self, code, mode) -> None:
        assert f"{code} {mode}" in PROTOCOL
        document = Document(mode)
        numbers = [(1, 2), *((document.number(name), 4) for name in ("num_clients", "threshold", "degree"))]
        numbers += [(document.number("vector_length"), 8), (document.number("value_bits"), 1)]
        numbers += [(document.number("ring_bits"), 1), (document.values["modular"] == "True", 1)]
        numbers += [(code, 1), (document.number("noise_components"), 1), (document.number("corrupt_clients"), 4)]
        numbers += [(len(document.text("nonce")), 1)]
        encoded = b"".join(int(number).to_bytes(size, "big") for number, size in numbers) + document.text("nonce")
        context = document.text("context")
        encoded += len(context).to_bytes(8, "big") + context
        assert tagged_hash("secagg/1 session id", encoded) == document.sid

    def test_keys(self) -> None:
        document = Document()
        sent, listed = document.messages["AdvertiseKeys"], document.messages["PeerKeys"]
        assert sent["channel public key"] == document.channel(3).public_key().public_bytes_raw()
        assert sent["mask public key"] == document.mask_key(3).public_key().public_bytes_raw()
        assert listed["client ids"] == id_bytes(3) + id_bytes(258)
        for kind, secret in (("channel", document.channel), ("mask", document.mask_key)):
            keys = b"".join(secret(client_id).public_key().public_bytes_raw() for client_id in (3, 258))
            assert listed[f"{kind} public keys"] == keys

    def test_encrypted_shares(self) -> None:
        document = Document()
        shared = document.channel(3).exchange(document.channel(258).public_key())
        keys = document.kdf(shared, "secagg/1 channel keys", id_bytes(3) + id_bytes(258), 32)
        label = b"secagg/1 encrypted shares" + document.sid
        upward = AESGCM(keys[:16]).encrypt(bytes(12), document.shares(3, 2), label + id_bytes(3) + id_bytes(258))
        downward = AESGCM(keys[16:]).encrypt(bytes(12), document.shares(258, 1), label + id_bytes(258) + id_bytes(3))
        assert document.messages["ShareKeys"]["encrypted shares"] == upward
        assert document.messages["PeerShares"]["encrypted shares"] == downward

    def test_commitment(self) -> None:
        document = Document()
        commitment = tagged_hash(
            "secagg/1 seed commitment", document.sid + id_bytes(3) + document.secret(3, "self-mask seed")
        )
        assert document.messages["ShareKeys"]["seed commitment"] == commitment

    def test_masked_input(self) -> None:
        document = Document()
        bits, inputs = document.number("ring_bits"), (1, 2, 3)
        assert document.values["client 3, input"] == str(list(inputs))
        self_mask, pairwise_mask = (keystream(key, len(inputs)) for key in document.masks())
        # 3 is the smaller id, and adds; words have one byte.
        masked = [sum(values) % (1 << bits) for values in zip(inputs, self_mask, pairwise_mask, strict=True)]
        packed = sum(element << bits * place for place, element in enumerate(masked))
        assert document.messages["MaskedInput"]["packed elements"] == packed.to_bytes(2, "little")

    def test_unmasking_shares(self) -> None:
        document = Document()
        # For the survivors 3 and 258, client 3 in place 0 gives its shares of the self-mask seeds.
        shares = document.shares(3, 1)[18:] + document.shares(258, 1)[18:]
        assert document.messages["UnmaskingShares"]["shares"] == shares

    @SIGNED
    def test_signature_of_the_keys(self, mode) -> None:
        document = Document(mode)
        sent, public_keys = document.messages["AdvertiseKeys"], document.public_keys(3)
        assert sent["channel public key"] + sent["mask public key"] == public_keys
        assert sent["identity key"] == document.identity(3).public_key().public_bytes_raw()
        statement = b"secagg/1 advertised keys" + document.sid + id_bytes(3) + public_keys
        assert sent["signature"] == document.identity(3).sign(statement)

    @SIGNED
    def test_signature_of_the_view(self, mode) -> None:
        document = Document(mode)
        members = []
        for client_id in (3, 258):
            keys = document.identity(client_id).public_key().public_bytes_raw() + document.public_keys(client_id)
            members.append(view_member(document.sid, 2, client_id, keys))
        digest = tagged_hash("secagg/1 view digest", document.sid + b"".join(sorted(members)))
        signed = {
            client_id: document.identity(client_id).sign(
                b"secagg/1 view of survivors" + document.sid + id_bytes(client_id) + digest
            )
            for client_id in (3, 258)
        }
        assert document.messages["ConsistencyCheck"]["signature"] == signed[3]
        if mode == "malicious":
            assert document.messages["ConsistencyProof"]["signatures"] == signed[258]

    def test_a_proof_on_a_sparse_graph(self) -> None:
        recording = SparseSession()
        proof, listed = recording.message(ConsistencyProof), recording.neighborhood(3)
        assert proof.consistent == (True, True, True)
        signers = [client_id for client_id in listed if client_id != 3]
        assert proof.signatures == b"".join(map(recording.signature, signers))
        views = [set(recording.neighborhood(signer)) for signer in signers]
        assert proof.common == bytes(
            sum(1 << place for place, client_id in enumerate(listed) if client_id in view) for view in views
        )
        others = [recording.member(client_id) for view in views for client_id in sorted(view - set(listed))]
        assert proof.others == b"".join(others)

    def test_a_mask_continues_in_the_next_chunk(self) -> None:
        exponents = re.search(r"in chunks of 2\^(\d+) bytes \(2\^(\d+) blocks\)", " ".join(PROTOCOL.split()))
        size, blocks = (2 ** int(exponent) for exponent in exponents.groups())
        assert size == 16 * blocks
        key = bytes(range(16))
        counter = (1).to_bytes(12, "big") + (2).to_bytes(4, "big")
        second = Cipher(algorithms.AES(key), modes.CTR(counter)).encryptor().update(bytes(32))
        assert KeystreamReader(key)(size + 32) == keystream(key, size) + second


class TestClaims:
    """Claims of docs/threat-model.md and docs/protocol.md on proofs, thresholds and blame."""

    @pytest.mark.parametrize("standing", [0, 1, 2])
    @pytest.mark.parametrize("place", [0, 1, 2])
    def test_no_neighbour_can_pose_as_a_member_that_only_the_signer_knows(self, place, standing) -> None:
        session = SparseSession()
        others = session.message(ConsistencyProof).others
        hidden = session.member(session.neighborhood(3)[place], standing)
        assert session.rule_of(others=others[32:] + hidden) is Rule.VIEWS_CONTRADICT

    def test_a_view_without_the_receiver_is_refused(self) -> None:
        session = SparseSession()
        own = session.neighborhood(3).index(3)
        common = session.message(ConsistencyProof).common
        without = bytes([common[0] & ~(1 << own), *common[1:]])
        assert session.rule_of(common=without) is Rule.VIEWS_CONTRADICT

    def test_a_view_without_its_signer_is_refused(self) -> None:
        session = SparseSession()
        signer, _ = (place for place, client_id in enumerate(session.neighborhood(3)) if client_id != 3)
        common = session.message(ConsistencyProof).common
        without = bytes([common[0] & ~(1 << signer), *common[1:]])
        assert session.rule_of(common=without) is Rule.VIEWS_CONTRADICT

    def test_a_signer_that_saw_the_receiver_vanish_is_not_counted(self) -> None:
        session = SparseSession()
        first, second = (client_id for client_id in session.neighborhood(3) if client_id != 3)
        signatures = session.signature(first) + session.signature(second, without=3)
        assert session.rule_of(signatures=signatures) is Rule.TOO_FEW_SIGNATURES

    @pytest.mark.parametrize(("corrupt", "degree", "threshold"), [(0.0, 22, 12), (0.1, 32, 22)])
    def test_the_plans_that_the_threat_model_speaks_of(self, corrupt, degree, threshold) -> None:
        planned = plan(
            num_clients=100,
            vector_length=1,
            value_bits=8,
            dropout=0.1,
            corrupt=corrupt,
            adversary=Adversary.SEMI_MALICIOUS,
            graph=GraphKind.SPARSE,
        ).parameters
        assert (planned.degree, planned.threshold) == (degree, threshold)
        assert f"k = {degree} and t = {threshold}" in " ".join(THREATS.split())

    @pytest.mark.parametrize(("received", "threshold"), [(4, 3), (5, 3), (6, 3), (7, 3), (8, 5), (9, 4)])
    def test_exactly_the_documented_number_of_holders_can_frame_an_honest_owner(self, received, threshold) -> None:
        assert _inconsistent(received, threshold, received - threshold + 1)
        assert not any(
            _inconsistent(received, threshold, liars) for liars in range((received - threshold + 1) // 2 + 1)
        )

    def test_a_threshold_of_shares_never_makes_the_owner_inconsistent(self) -> None:
        assert not any(_inconsistent(4, 4, liars) for liars in range(1, 5))


def _inconsistent(received: int, threshold: int, liars: int) -> bool:
    """Return whether the owner is blamed if the last holders add a polynomial that is 0 at most honest points."""
    seed = bytes(range(16))
    shares = share_seeds((seed,), threshold, received, coefficient_source(bytes(16), bytes(32), 1))[None, :, 0]
    for place in range(received - liars, received):
        added = 1
        for honest in range(1, threshold):
            added *= place + 1 - honest
        shares[0, place] = (shares[0, place].astype(np.int64) + added) % PRIME
    holders = np.arange(received)[None]
    recovered = recover_secrets(
        np.array([0]),
        holders,
        holders >= 0,
        shares,
        threshold,
        lambda _, found: found == seed,
        coefficient_source(bytes(16), bytes(32), 2),
    )
    return recovered.inconsistent == [0]

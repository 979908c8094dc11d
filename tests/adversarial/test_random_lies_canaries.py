"""Without any one of its checks, the library fails the campaign of random lies: the campaign can fail."""

from collections.abc import Callable
from typing import Any

import pytest

import secagg.client
from secagg import Adversary
from secagg._client import rules, states
from secagg.masking import accumulate
from secagg.primitives import signing
from secagg.session import session_id
from tests.adversarial.random_lies import campaign, hosts, library
from transport import ClientRecord

pytestmark = pytest.mark.slow

# With the seeds below, a few dozen sessions are enough.
SESSIONS = 1000


def _no_place_of_the_signer(patch: pytest.MonkeyPatch) -> None:
    """Count views without the signer in them under the keys that the receiver knows."""
    digests = rules._digests_of_views

    def careless(message, setup, view, signers):
        own_place = view.neighborhood.client_ids.index(setup.client_id)
        return digests(message, setup, view, [own_place] * len(signers))

    patch.setattr(rules, "_digests_of_views", careless)


def _no_proof(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(states, "check_consistency_proof", lambda *arguments: None)


def _no_signature(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(signing, "verify", lambda *arguments: True)


def _no_context(patch: pytest.MonkeyPatch) -> None:
    """Put clients with different models in one session."""
    patch.setattr(
        secagg.client, "session_id", lambda params, nonce, context: session_id(params, nonce=nonce, context=b"")
    )


def _a_second_list(patch: pytest.MonkeyPatch) -> None:
    """Let a client that has answered a list answer the next one too."""
    receive = states.SurvivorsSigned.receive

    def forgetful(self, message):
        _, events = receive(self, message)
        setup = self.setup.without_identity()
        kept = {
            "held": self.held,
            "shares": self.shares,
            "pairwise_keys": self.pairwise_keys,
            "pad_keys": self.pad_keys,
        }
        return states.Masked(setup, self.neighborhood, shared=self.shared, **kept), events

    patch.setattr(states.SurvivorsSigned, "receive", forgetful)


def _no_record(patch: pytest.MonkeyPatch) -> None:
    for name in ("check", "enter", "check_round", "answer"):
        patch.setattr(ClientRecord, name, lambda *arguments, **options: None)


def _a_mask_forgotten(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(states, "accumulate", lambda vector, masks: accumulate(vector, masks[:-1]))


Disable = Callable[[pytest.MonkeyPatch], Any]


@pytest.mark.parametrize(
    ("disable", "front", "graph", "found", "seed"),
    [
        (_no_place_of_the_signer, "library", "sparse", "sums of too few", 2),
        (_no_proof, "library", "complete", "sums of too few", 1),
        (_no_proof, "library", "sparse", "sums of too few", 2),
        (_no_signature, "library", "sparse", "sums of too few", 5),
        (_no_context, "library", "complete", "sums over different models", 1),
        (_a_second_list, "library", "complete", "second answers", 3),
        (_a_second_list, "library", "complete", "double reveals", 3),
        (_no_record, "host", "complete", "second answers", 5),
        (_a_mask_forgotten, "library", "complete", "wrong sums", 0),
    ],
    ids=lambda value: value.__name__.strip("_").replace("_", " ") if callable(value) else str(value),
)
def test_the_campaign_finds_a_missing_check(disable: Disable, front, graph, found, seed, tmp_path, monkeypatch):
    disable(monkeypatch)
    make_front = library if front == "library" else hosts(tmp_path)
    figures = campaign(
        make_front,
        sessions=SESSIONS,
        seed=seed,
        modes=(Adversary.MALICIOUS,),
        graphs=(graph,),
        stop=lambda figures: bool(figures.broken[found]),
    )
    assert figures.broken[found], figures

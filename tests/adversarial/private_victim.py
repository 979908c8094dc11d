"""A client with limits of privacy, and the offers of its server."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import secagg
from fl.learning.serialization import model_to_bytes
from fl.network.announcement import RoundAnnouncement, encode_announcement
from fl.network.client import Participant
from fl.network.offers import check_offer
from fl.network.own_privacy import own_account
from fl.network.policy import Policy
from fl.privacy.budget import Budget
from fl.privacy.planner import PrivacyPlan, plan_private
from fl.privacy.policy import PrivacyAccount, PrivacyPolicy
from fl.privacy.terms import PrivateTerms
from secagg import Adversary
from tests.adversarial.repeating_server import CLASSES, MODEL, SHAPE, TRAINING, VICTIM, Lie, examples
from transport import ClientJournal, Offer

LENGTH = sum(parameter.numel() for parameter in MODEL.parameters())
LIMITS = PrivacyPolicy(max_epsilon=12.0, delta=1e-5, max_epsilon_per_round=4.5)
CLIENTS = 20


def planned(**changes: Any) -> PrivacyPlan:
    budget = Budget(epsilon=4.0, delta=1e-5, rounds=1, clip=0.5)
    return plan_private(
        budget,
        **{"num_clients": CLIENTS, "length": LENGTH, "adversary": Adversary.MALICIOUS, "dropout": 0.2, **changes},
    )


PLAN = planned()
PARAMS = PLAN.session.parameters
TERMS = PrivateTerms(mechanism=PLAN.mechanism, honest=PLAN.release.honest, corrupt=0)


def announced(number: int = 1, terms: PrivateTerms | None = TERMS, **changes: Any) -> RoundAnnouncement:
    given: dict[str, Any] = {
        "round": number, "rounds": 9, "model": "logistic", "image_shape": SHAPE, "num_classes": CLASSES,
        "value_bits": 24, "scales": None, "training": TRAINING, "privacy": terms, "model_bytes": model_to_bytes(MODEL),
    }  # fmt: skip
    return RoundAnnouncement(**given | changes)


def offer(
    number: int = 1, terms: PrivateTerms | None = TERMS, params: secagg.Parameters = PARAMS, nonce: bytes = b"nonce",
    **changes: Any,
) -> Offer:  # fmt: skip
    return Offer(params, nonce, encode_announcement(announced(number, terms, **changes)), number)


class Victim:
    """A client with limits, which can be started again; each session has a journal of its own."""

    def __init__(self, folder: Path, policy: Policy | None = None) -> None:
        self.folder = folder
        self.lie = Lie(folder)
        self.lie.port = 1
        self.policy = policy or Policy(min_inputs=4, privacy=LIMITS)
        self._stack = ExitStack()
        self.start()

    def start(self) -> None:
        """Start it, or kill it and start it again with what is on the disk."""
        self._stack.close()
        options = self.lie.options(VICTIM, policy=self.policy, state=self.folder / "state")
        self.options = options
        self.participant = Participant(options, examples(VICTIM), lambda _: None)
        self.participant._inputs.account = self._stack.enter_context(own_account(options))

    @property
    def account(self) -> PrivacyAccount:
        account = self.participant._inputs.account
        assert account is not None
        return account

    def check(self, offered: Offer) -> RoundAnnouncement:
        return check_offer(offered, self.options, examples(VICTIM), self.account)

    def journal(self, name: str) -> ClientJournal:
        """Return the journal of a session: a new one, or the same after a restart."""
        journal = ClientJournal(self.folder / name, self.folder / "key")
        if journal.is_empty:
            journal.begin(VICTIM, bytes(32), b"offer")
            journal.save(b"machine", 0, [b"answer"], [])
        return journal

    def input(self, offered: Offer, name: str) -> np.ndarray:
        """Accept a session, and return what would be masked and sent."""
        journal = self.journal(name)
        try:
            self.participant._inputs.journal = journal
            vector = self.participant._input(offered)
            assert isinstance(vector, np.ndarray)
            return vector
        finally:
            journal.close()

    def close(self) -> None:
        self._stack.close()


def with_mechanism(**changes: Any) -> PrivateTerms:
    return replace(TERMS, mechanism=replace(TERMS.mechanism, **changes))

"""A client's inputs: it trains or measures on its own examples, and encodes the result, in private sessions with noise.

The client draws shuffling, rounding and noise from its own randomness, so that no one else can compute its integers
again.  In a private session it charges its ledger before the input is made: whatever the input says, and also if
training failed, it comes from this client's examples.
"""

import hashlib
import itertools
import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from torch import nn

from fl.aggregation.counters import IntegerVector
from fl.aggregation.encoding import ClientUpdate
from fl.aggregation.held_out import encoded_evaluation
from fl.aggregation.private_session import PrivateEncoding, ScoresEncoding
from fl.aggregation.totals import TotalsEncoding
from fl.engines.local_worker import local_update
from fl.errors import ConfigError, FLError
from fl.learning.cpu import worthwhile_threads
from fl.learning.devices import find_device
from fl.learning.task import Task
from fl.learning.training import Evaluation, evaluate
from fl.network.announcement import RoundAnnouncement, decode_announcement, encode_announcement, round_context
from fl.network.offers import JoinOptions
from fl.network.own_examples import OwnExamples
from fl.network.own_models import OwnModels
from fl.privacy.policy import PrivacyAccount
from secagg import EntropySource
from transport import ClientJournal, InputWithheldError, KeyedInput, Offer


class OwnInputs:
    """Makes the inputs of a client's sessions.

    Args:
        options: the client's options.
        examples: its examples.
        models: the models that it keeps.
        say: prints one line for the user.

    Attributes:
        journal: the journal of the present session, if there is one.
        account: what the client has spent of its limits of privacy; None without limits.
        failures: why the client sent nothing of its own in a round, by the round's number.
    """

    def __init__(
        self, options: JoinOptions, examples: OwnExamples, models: OwnModels, say: Callable[[str], None]
    ) -> None:
        self._options = options
        self._examples = examples
        self._models = models
        self._say = say
        self.journal: ClientJournal | None = None
        self.account: PrivacyAccount | None = None
        self.failures: dict[int, InputWithheldError] = {}
        # The measured update and the key of its announcement; the session for the update follows.
        self._measured: tuple[bytes, ClientUpdate] | None = None

    def make(self, offer: Offer) -> IntegerVector | KeyedInput:
        """Train, and encode the update; with a journal, the vector is the same after a crash.

        Raises:
            InputWithheldError: the ledger cannot be written, so that nothing may leave.
            secagg.PolicyError: the session is not within this client's conditions, which may have changed since it
                began.
        """
        announced = announced_in(offer)
        model, encoding = self._options.policy.check_training(announced, offer.params, self._examples.all)
        # The same for this session after a crash, and for no other one, whatever the server repeats.
        name = self._randomness(b"privacy")
        if self.account is not None:
            self.account.check(announced.privacy, offer.params, session=name)
        self._examples.follow(announced.holdout)
        if isinstance(encoding, TotalsEncoding):
            return self._scores(announced, model, encoding)
        if isinstance(encoding, PrivateEncoding | ScoresEncoding):
            return self._private(offer, announced, model, encoding, name)
        # The key is the same for the measurement and the update of one round, model and training.
        key = round_context(announced.round, encode_announcement(replace(announced, scales=None)))
        measured, self._measured = self._measured, None
        where, count = f"round {announced.round}/{announced.rounds}", len(self._examples.training.labels)
        if announced.scales is not None and count > announced.scales.max_weight:
            self._say(f"{where}: {count} examples count as {announced.scales.max_weight}, the server's bound")
        rng = np.random.default_rng(int.from_bytes(self._randomness(b"rounding"), "big"))
        try:
            if measured is not None and measured[0] == key:
                self._models.receive(announced, model)
                update = measured[1]
            else:
                update = self._update(announced, model)
            vector = encoding.encode(update, rng)
        except FLError as error:
            # The server must not see who fails: its model may be made so that single examples decide it.
            self.failures[announced.round] = InputWithheldError(str(error))
            return encoding.encode(encoding.no_update(), rng)
        if announced.scales is None:
            self._measured = key, update
        return vector

    def _private(
        self,
        offer: Offer,
        announced: RoundAnnouncement,
        model: nn.Module,
        encoding: PrivateEncoding | ScoresEncoding,
        session: bytes,
    ) -> IntegerVector | KeyedInput:
        """Return the update or the scores with noise; without them, noise alone."""
        assert announced.privacy is not None  # noqa: S101 - the encoding comes from it
        rng = np.random.default_rng(int.from_bytes(self._randomness(b"rounding"), "big"))
        entropy, context = _source(self._randomness(b"noise")), round_context(offer.number, offer.extra)

        def encoded(made: Any) -> IntegerVector | KeyedInput:
            if isinstance(encoding, ScoresEncoding):
                return encoding.encode(made, rng, context=context, entropy=entropy)
            return encoding.encode(made or encoding.no_update(), rng, context=context, entropy=entropy)

        made = None
        try:
            made = self._update(announced, model) if announced.purpose == "update" else self._measure(announced, model)
        except FLError as error:
            self.failures[announced.round] = InputWithheldError(str(error))
        if self.account is not None:
            try:
                self.account.charge(announced.privacy, offer.params, announced.round, session=session)
            except ConfigError as error:
                raise InputWithheldError(str(error)) from error
        try:
            return encoded(made)
        except FLError as error:
            self.failures[announced.round] = InputWithheldError(str(error))
            return encoded(None)

    def _update(self, announced: RoundAnnouncement, model: nn.Module) -> ClientUpdate:
        self._models.receive(announced, model)
        where, count = f"round {announced.round}/{announced.rounds}", len(self._examples.training.labels)
        self._say(f"{where}: training on {count} examples")
        return self._trained(announced, model)

    def _scores(self, announced: RoundAnnouncement, model: nn.Module, encoding: TotalsEncoding) -> IntegerVector:
        """Return the scores of the round's new model on the examples held out; without any they add nothing."""
        try:
            return encoded_evaluation(encoding, self._measure(announced, model))
        except FLError as error:
            self.failures[announced.round] = InputWithheldError(str(error))
        return encoded_evaluation(encoding, None)

    def _measure(self, announced: RoundAnnouncement, model: nn.Module) -> Evaluation | None:
        data = self._examples.held_out.shaped_for(announced.image_shape, announced.input_type)
        self._models.receive(announced, model)
        task = Task(announced.loss, announced.metrics)
        return evaluate(model, data.images, data.labels, task=task) if len(data.labels) else None

    def _trained(self, announced: RoundAnnouncement, model: nn.Module) -> ClientUpdate:
        # The policy has accepted the task's names.
        task = Task(announced.loss, announced.metrics)
        data = self._examples.training.shaped_for(announced.image_shape, announced.input_type)
        return local_update(
            model,
            data.images,
            data.labels,
            announced.training,
            seed=int.from_bytes(self._randomness(b"training")[:8], "big") >> 1,
            threads=worthwhile_threads(model, data.image_shape, announced.training.batch_size, data.images.dtype),
            frozen=announced.frozen_sha256,
            task=task,
            device=find_device(self._options.device),
        )

    def _randomness(self, purpose: bytes) -> bytes:
        """Return 32 secret bytes: from the journal, the same after a crash; without a journal, fresh ones."""
        return os.urandom(32) if self.journal is None else self.journal.derive_seed(purpose)


def _source(secret: bytes) -> EntropySource:
    """Return a source of secret bytes that gives other ones at each call, and the same after a restart."""
    numbers = itertools.count()
    return lambda count: hashlib.shake_256(secret + next(numbers).to_bytes(8, "big")).digest(count)


def announced_in(offer: Offer) -> RoundAnnouncement:
    """Return the announcement of an accepted offer."""
    announced = decode_announcement(offer.extra)
    assert isinstance(announced, RoundAnnouncement)  # noqa: S101 - other offers are not accepted
    return announced

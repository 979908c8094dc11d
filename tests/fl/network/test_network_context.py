"""The input of a client's training is bound into the session: clients with different announcements share no masks."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from typing import Any

import pytest

from fl.aggregation.encoding import ClientUpdate
from fl.aggregation.scales import Scales
from fl.learning.models import build_model
from fl.learning.serialization import model_to_bytes
from fl.learning.settings import Local
from fl.network import own_inputs
from fl.network.announcement import RoundAnnouncement, encode_announcement, round_context
from fl.network.client import Participant
from fl.network.offers import JoinOptions
from fl.network.policy import Policy
from fl.privacy.mechanism import Mechanism, Noise
from fl.privacy.terms import PrivateTerms
from fl.runs.rounds import FederatedRun
from tests.fl.network.test_network_parts import DATA, PARAMS, SCALES, SHAPE, announcement
from tests.fl.privacy.test_terms import TERMS
from tests.fl.runs import tiny_config, tiny_dataset
from transport import Offer
from transport.tcp import PLAINTEXT

OTHER_MODEL = model_to_bytes(build_model("logistic", image_shape=SHAPE, num_classes=3, seed=2))
TRAINING = {
    "epochs": 2, "batch_size": 3, "learning_rate": 0.2, "momentum": 0.1, "weight_decay": 0.1, "channels_last": False,
    "bfloat16": "on", "optimizer": "adam", "proximal": 0.5,
}  # fmt: skip
FIGURES = dataclasses.replace(TERMS.mechanism, figures=2, figure_weight=0.1)
PRIVACY = {
    "mechanism": FIGURES,
    "honest": 3,
    "corrupt": 1,
    "sampling_rate": 0.5,
    "figure_ranges": (("loss", 0.0, 2.0),),
}
MECHANISM = {
    "length": 101, "clip": 0.75, "granularity": 1e-3, "variance": 7.0, "ring_bits": 40, "noise": Noise.GAUSSIAN,
}  # fmt: skip
BOUNDS = {"bounds": (1.0, 0.25), "max_weight": 11}


def changed() -> Iterator[tuple[str, RoundAnnouncement]]:
    """Return the announcement with each of its fields changed, also the nested ones."""
    first = announcement()
    for name, value in {
        "round": 3, "rounds": 6, "model": "2nn", "image_shape": (1, 2, 8), "num_classes": 4, "model_bytes": OTHER_MODEL,
        "value_bits": 17, "seed": 1, "frozen_sha256": bytes(32),
        "holdout": 0.25, "purpose": "scores", "input_type": "int64", "loss": "mse", "metrics": ("mae",),
    }.items():  # fmt: skip
        yield name, dataclasses.replace(first, **{name: value})
    for name, value in TRAINING.items():
        yield f"training.{name}", announcement(training=dataclasses.replace(first.training, **{name: value}))
    private = dataclasses.replace(first, scales=None, privacy=TERMS)
    yield "privacy", private
    for name, value in PRIVACY.items():
        yield f"privacy.{name}", dataclasses.replace(private, privacy=dataclasses.replace(TERMS, **{name: value}))
    for name, value in MECHANISM.items():
        terms = dataclasses.replace(TERMS, mechanism=dataclasses.replace(TERMS.mechanism, **{name: value}))
        yield f"privacy.mechanism.{name}", dataclasses.replace(private, privacy=terms)
    for name, value in BOUNDS.items():
        yield f"scales.{name}", announcement(scales=dataclasses.replace(SCALES, **{name: value}))


def names(kind: type) -> set[str]:
    return {field.name for field in dataclasses.fields(kind)}


def test_no_field_is_left_out() -> None:
    """A round has its own learning rate: the decay to the next one is the server's concern."""
    outer = names(RoundAnnouncement) - {"training", "scales"}
    inner = {f"training.{name}" for name in names(Local) - {"learning_rate_decay"}} | {
        f"scales.{name}" for name in names(Scales)
    }
    inner |= {f"privacy.{name}" for name in names(PrivateTerms)}
    # The two that `FIGURES` changes come together.
    inner |= {f"privacy.mechanism.{name}" for name in names(Mechanism) - {"figures", "figure_weight"}}
    assert {name for name, _ in changed()} == outer | inner


def test_every_field_is_in_the_context() -> None:
    contexts = {round_context(2, encode_announcement(announcement)) for _, announcement in changed()}
    contexts |= {
        round_context(2, encode_announcement(announcement())),
        round_context(3, encode_announcement(announcement())),
    }
    assert len(contexts) == len(list(changed())) + 2


class Heard:
    """The arguments of a trainer's call."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[tuple[Any, ...]] = []
        monkeypatch.setattr(own_inputs, "local_update", self)
        # The client's own draws do not count.
        monkeypatch.setattr(os, "urandom", bytes)

    def __call__(self, model: Any, images: Any, labels: Any, training: Local, **options: Any) -> ClientUpdate:
        state = {name: value.tolist() for name, value in model.state_dict().items()}
        self.calls.append((state, images, labels, training, options))
        raise NotImplementedError


def test_nothing_but_the_announcement_reaches_the_trainer(monkeypatch: pytest.MonkeyPatch) -> None:
    """The offer's other fields are parameters of the protocol, which its session id covers."""
    heard = Heard(monkeypatch)
    options = JoinOptions(
        client_id=0, address=("127.0.0.1", 1), tls=PLAINTEXT, policy=Policy(), max_model_bytes=1 << 20, give_up=1.0
    )
    participant = Participant(options, DATA, lambda _: None)
    extra = encode_announcement(announcement())
    curious = dataclasses.replace(PARAMS, ring_bits=PARAMS.ring_bits + 1)
    offers = [Offer(PARAMS, b"a", extra, 2), Offer(PARAMS, b"b", extra, 2), Offer(PARAMS, b"a", extra, 3)]
    offers.append(Offer(curious, b"a", extra, 2))
    for offer in offers:
        with pytest.raises(NotImplementedError):
            participant._input(offer)
    first, *others = heard.calls
    assert all(call == first for call in others)
    assert first[3] == announcement().training
    assert first[4]["seed"] == 0


def test_a_simulation_trains_only_with_the_config_and_the_model() -> None:
    """The server passes no more to clients: settings come with the run, and the model's state is the context."""
    run = FederatedRun(tiny_config(), tiny_dataset(), "secure")
    context = run.worker.received_context(1, model_to_bytes(run.model))
    assert context != run.worker.received_context(2, model_to_bytes(run.model))
    state = {name: tensor.clone() for name, tensor in run.model.state_dict().items()}
    for name, tensor in run.model.state_dict().items():
        tensor.view(-1)[0] += 1
        assert run.worker.received_context(1, model_to_bytes(run.model)) != context, name
        run.model.load_state_dict(state)
    assert run.worker.received_context(1, model_to_bytes(run.model)) == context

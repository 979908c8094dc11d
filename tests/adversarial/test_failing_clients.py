"""A model that is made to fail on one example: the server must not see whose training it breaks.

Weights near the largest float32 give infinite logits for the example that they are made for, and for no other.  If that
client stayed away, each offer would answer a question on its examples alone; and a session that the server then aborts
uses up nothing of anyone's budget.
"""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import pytest
import torch
from torch import nn

from fl.learning.own_code import make_model
from fl.learning.task import CLASSIFICATION
from fl.network import client as joining
from secagg import Completed
from tests.adversarial.repeating_server import CLASSES, CLIENTS, SCALES, SHAPE, VICTIM, Lie, encoding, examples
from transport.tcp import Retry

pytestmark = pytest.mark.live


def trap() -> nn.Module:
    """Return a model whose logits are infinite where two pixels together are brighter than in all other examples."""
    mine, others = (
        torch.cat([examples(i).images.flatten(1) for i in ids]) for ids in ([VICTIM], set(range(CLIENTS)) - {VICTIM})
    )
    pairs = list(itertools.combinations(range(mine.shape[1]), 2))
    brightest = [[float(part[:, pair].sum(dim=1).max()) for pair in pairs] for part in (mine, others)]
    place = max(range(len(pairs)), key=lambda place: brightest[0][place] - brightest[1][place])
    limit = (brightest[0][place] + brightest[1][place]) / 2
    model = make_model("logistic", image_shape=SHAPE, num_classes=CLASSES, seed=0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        next(model.parameters())[:, pairs[place]] = torch.finfo(torch.float32).max / limit
    return model


def test_the_trap_is_for_the_victims_examples_alone() -> None:
    model = trap()
    for i in range(CLIENTS):
        loss = CLASSIFICATION.loss_sum(model(examples(i).images), examples(i).labels)
        assert math.isfinite(loss) == (i != VICTIM)


def test_the_server_does_not_see_whose_training_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joining, "_PATIENCE", Retry(first=0.1, longest=0.3))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "user"))
    lie, counts = Lie(tmp_path), [len(examples(i).labels) for i in range(CLIENTS)]

    async def scenario() -> None:
        for i in range(CLIENTS):
            lie.start(i)
        model = trap()
        measured = await lie.offer(3, scales=None, model=model)
        assert isinstance(measured, Completed)
        assert measured.included == tuple(range(CLIENTS))
        trapped = await lie.offer(3, model=model)
        assert isinstance(trapped, Completed)
        assert trapped.included == tuple(range(CLIENTS))
        # It counts nothing, so that it changes no mean.
        assert encoding(SCALES).decode(trapped.sum, CLIENTS).num_examples == sum(counts) - counts[VICTIM]
        honest = await lie.offer(4)
        assert isinstance(honest, Completed)
        assert honest.included == tuple(range(CLIENTS))
        assert encoding(SCALES).decode(honest.sum, CLIENTS).num_examples == sum(counts)

    lie.run(scenario)
    for i, said in lie.said.items():
        assert sum(line.startswith("no update in this round: the loss is ") for line in said) == 2 * (i == VICTIM), said

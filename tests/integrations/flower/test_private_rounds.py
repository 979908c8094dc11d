"""Private rounds: changes with noise, the node's own limits and ledger, and servers that announce other noise."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("flwr", reason="needs Flower, which has its own environment: make test-flower")

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, RecordDict
from flwr.serverapp.strategy import FedAvg

from fl.errors import ConfigError
from fl.integrations.flower import SecAggGrid, secagg_mod
from fl.integrations.flower.errors import FlowerError, OfferError
from fl.integrations.flower.offer import RoundOffer
from fl.integrations.flower.settings import SecAggSettings
from fl.privacy.budget import Budget
from fl.privacy.ledger import EpsilonSpentError
from fl.privacy.policy import PrivacyPolicy
from secagg import Adversary, Identity
from tests.integrations.flower import apps
from tests.integrations.flower.apps import initial_arrays, make_app, number_of, train_messages
from tests.integrations.flower.loopback import LoopbackGrid

NODES = 5
BUDGET = Budget(epsilon=200.0, delta=1e-2, rounds=4, clip=2.0)
LIMITS = PrivacyPolicy(max_epsilon=200.0, delta=1e-2)


def own_folder(folder: Path) -> Any:
    return lambda context: folder / f"node-{number_of(context)}"


def content(number: int = 1) -> RecordDict:
    return RecordDict({"arrays": initial_arrays(), "config": ConfigRecord({"server-round": number})})


def private_grid(loopback: LoopbackGrid, budget: Budget = BUDGET, **settings: Any) -> SecAggGrid:
    return SecAggGrid(loopback, poll_seconds=0.005, privacy=budget, **settings)


def ask(grid: SecAggGrid, loopback: LoopbackGrid, number: int = 1) -> Any:
    replies = list(grid.send_and_receive(train_messages(loopback, content(number)), timeout=10))
    return replies[0].content if replies else None


class Counting:
    """An app's training that counts its calls by node, and may fail on one of them."""

    def __init__(self, fails: Any = None) -> None:
        self.calls = [0] * NODES
        self.fails = fails

    def __call__(self, message: Message, context: Context) -> Message:
        self.calls[number_of(context)] += 1
        if self.fails is not None and number_of(context) == 2:
            return self.fails(message)
        return apps.train(message, context)


def mean_change() -> dict[str, np.ndarray]:
    """Return the mean of the nodes' changes, each clipped to the budget's norm; every node counts once."""
    sent = initial_arrays()
    total = {name: np.zeros(array.shape) for name, array in sent.items()}
    for number in range(NODES):
        change = {name: apps.change(array.numpy(), number) - array.numpy() for name, array in sent.items()}
        norm = float(np.sqrt(sum(np.square(one).sum() for one in change.values())))
        for name, one in change.items():
            total[name] += one * min(1.0, BUDGET.clip / norm) / NODES
    return total


def test_the_average_is_that_of_the_clipped_changes_with_noise(tmp_path: Path) -> None:
    loopback = LoopbackGrid(make_app(secagg_mod(privacy=LIMITS, ledger=own_folder(tmp_path))), NODES)
    grid = private_grid(loopback, ledger=tmp_path / "server.json")
    found = ask(grid, loopback)
    assert grid.reports[0].included == tuple(1000 + number for number in range(NODES))
    # Neither weights nor metrics travel.
    assert dict(found["metrics"]) == {"num-examples": NODES}
    assert set(found["arrays"]) == set(initial_arrays())
    deviation = grid._private._plans.private.mechanism.stddev(NODES) / NODES
    error = np.concatenate(
        [
            np.ravel(found["arrays"][name].numpy() - array.numpy() - mean_change()[name])
            for name, array in initial_arrays().items()
        ]
    )
    assert 0.3 * deviation < float(np.sqrt(np.square(error).mean())) < 2 * deviation
    stored = json.loads((tmp_path / "server.json").read_text())
    assert [count for _, count, _ in stored["charges"]] == [1]
    for number in range(NODES):
        own = json.loads((tmp_path / f"node-{number}" / "privacy.json").read_text())
        assert [count for _, count, _ in own["charges"]] == [1]


def test_a_strategy_trains_in_private_until_the_budget_is_spent(tmp_path: Path) -> None:
    loopback = LoopbackGrid(make_app(secagg_mod(privacy=LIMITS, ledger=own_folder(tmp_path))), NODES)
    grid = private_grid(loopback, ledger=tmp_path / "server.json")
    result = FedAvg(fraction_evaluate=0.0).start(grid=grid, initial_arrays=initial_arrays(), num_rounds=3, timeout=10)
    assert len(result.train_metrics_clientapp) == 3
    # A new program goes on with the ledger, and ends at the budget.
    again = private_grid(loopback, ledger=tmp_path / "server.json")
    assert ask(again, loopback, 4) is not None
    with pytest.raises(EpsilonSpentError, match="the run ends here"):
        ask(again, loopback, 5)


def test_a_node_with_limits_declines_sessions_without_noise_before_it_trains(tmp_path: Path) -> None:
    train = Counting()
    loopback = LoopbackGrid(make_app(secagg_mod(privacy=LIMITS, ledger=own_folder(tmp_path)), train=train), NODES)
    grid = SecAggGrid(loopback, poll_seconds=0.005)
    assert ask(grid, loopback) is None
    assert train.calls == [0] * NODES
    assert all("has no noise" in reason for _, reason in grid.reports[0].dropped.values())
    (answer, *_) = loopback.send_and_receive(train_messages(loopback, content(), "evaluate"))
    assert "evaluate messages through secure aggregation only" in answer.error.reason


@pytest.mark.parametrize(
    ("limits", "why"),
    [
        (PrivacyPolicy(max_epsilon=200.0, delta=1e-2, max_epsilon_per_round=20.0), "at most 20 is allowed"),
        (PrivacyPolicy(max_epsilon=20.0, delta=1e-2), "above its limit of 20"),
        (PrivacyPolicy(max_epsilon=200.0, delta=1e-2, min_honest=4), "asks for 4"),
    ],
)
def test_a_node_declines_what_is_beyond_its_limits_before_it_trains(
    limits: PrivacyPolicy, why: str, tmp_path: Path
) -> None:
    train = Counting()
    loopback = LoopbackGrid(make_app(secagg_mod(privacy=limits, ledger=own_folder(tmp_path)), train=train), NODES)
    grid = private_grid(loopback, threshold=3)
    assert ask(grid, loopback) is None
    assert train.calls == [0] * NODES
    assert all(why in reason for _, reason in grid.reports[0].dropped.values())
    assert not list(tmp_path.glob("node-*/privacy.json")) or all(
        json.loads(path.read_text())["charges"] == [] for path in tmp_path.glob("node-*/privacy.json")
    )


def test_the_ledger_is_charged_before_the_app_sees_the_model_and_outlives_the_mod(tmp_path: Path) -> None:
    seen: list[int] = []

    def train(message: Message, context: Context) -> Message:
        stored = json.loads((tmp_path / f"node-{number_of(context)}" / "privacy.json").read_text())
        seen.append(sum(count for _, count, _ in stored["charges"]))
        return apps.train(message, context)

    limits = PrivacyPolicy(max_epsilon=130.0, delta=1e-2)
    for _ in range(2):
        loopback = LoopbackGrid(make_app(secagg_mod(privacy=limits, ledger=own_folder(tmp_path)), train=train), NODES)
        assert ask(private_grid(loopback), loopback) is not None
    assert seen == [1] * NODES + [2] * NODES
    for _ in range(9):
        grid = private_grid(loopback)
        if ask(grid, loopback) is None:
            break
    assert all("above its limit of 130" in reason for _, reason in grid.reports[-1].dropped.values())


def test_against_a_server_that_may_lie_a_round_is_answered_and_charged_once(tmp_path: Path) -> None:
    """A node counts the noise of the honest nodes in the smallest sum, since the mode vouches for them."""
    identities = [Identity.generate() for _ in range(NODES)]
    keys = [identity.public_key for identity in identities]
    mod = secagg_mod(
        identity=lambda context: identities[number_of(context)],
        enrolled=keys,
        claims=tmp_path / "claims",
        privacy=LIMITS,
        ledger=own_folder(tmp_path),
    )
    train = Counting()
    loopback = LoopbackGrid(make_app(mod, train=train), NODES)
    grid = private_grid(loopback, adversary=Adversary.MALICIOUS, enrolled=keys)
    assert ask(grid, loopback) is not None
    (threshold,) = {
        json.loads((tmp_path / f"node-{number}" / "privacy.json").read_text())["releases"][0]["honest"]
        for number in range(NODES)
    }
    assert threshold == grid._private._plans.private.session.parameters.threshold
    # The same round again is declined before anything is charged or trained.
    assert ask(grid, loopback) is None
    assert train.calls == [1] * NODES
    own = json.loads((tmp_path / "node-0" / "privacy.json").read_text())
    assert [count for _, count, _ in own["charges"]] == [1]


def raising(message: Message) -> Message:
    raise ValueError("the loss is nan")


def not_finite(message: Message) -> Message:
    arrays = {
        name: Array(np.full(array.shape, np.nan, np.float32)) for name, array in message.content["arrays"].items()
    }
    return Message(RecordDict({"arrays": ArrayRecord(arrays)}), reply_to=message)


@pytest.mark.parametrize("fails", [raising, not_finite])
def test_a_node_whose_training_fails_sends_noise_that_looks_the_same(fails: Any, caplog: Any) -> None:
    """Already before its first reply: the structure of private inputs is that of the arrays that were sent."""
    loopback = LoopbackGrid(make_app(secagg_mod(), train=Counting(fails)), NODES)
    grid = private_grid(loopback)
    assert ask(grid, loopback) is not None
    assert grid.reports[0].included == tuple(1000 + number for number in range(NODES))
    assert not any(reply.has_error() for reply in loopback.seen)
    layouts = {reply.content["secagg.layout"]["layout"] for reply in loopback.seen if "secagg.layout" in reply.content}
    assert len(layouts) == 1
    assert "its input is noise alone" in caplog.text


def test_an_error_that_the_app_answers_reaches_the_server() -> None:
    fails = lambda message: Message(Error(code=77, reason="no data today"), reply_to=message)  # noqa: E731
    loopback = LoopbackGrid(make_app(secagg_mod(), train=Counting(fails)), NODES)
    grid = private_grid(loopback, dropout=0.2)
    ask(grid, loopback)
    assert grid.reports[0].dropped[1002][1] == "no data today"


def offer(loopback: LoopbackGrid) -> RoundOffer:
    grid = private_grid(loopback)
    ask(grid, loopback)
    opening = next(message for message in loopback.sent if "offer" in message.content["secagg"])
    return RoundOffer.from_bytes(opening.content["secagg"]["offer"])


def test_an_offer_whose_noise_does_not_fit_is_none() -> None:
    """No noise in a ring that wraps around; terms in a ring that does not; other numbers of elements or clients."""
    honest = offer(LoopbackGrid(make_app(secagg_mod()), NODES))
    assert RoundOffer.from_bytes(honest.to_bytes()) == honest
    assert honest.privacy is not None
    own = honest.privacy
    for lie in (
        replace(honest, privacy=None),
        replace(honest, params=replace(honest.params, modular=False, ring_bits=16)),
        replace(honest, privacy=replace(own, honest=own.honest + 1)),
        replace(honest, privacy=replace(own, mechanism=replace(own.mechanism, length=own.mechanism.length + 1))),
        replace(honest, privacy=replace(own, mechanism=replace(own.mechanism, ring_bits=own.mechanism.ring_bits - 1))),
    ):
        with pytest.raises(OfferError):
            RoundOffer.from_bytes(lie.to_bytes())
    # Nodes with other terms cannot agree on masks.
    assert replace(honest, privacy=replace(own, sampling_rate=0.5)).context != honest.context


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        (
            {"privacy": Budget(epsilon=8, delta=1e-5, rounds=3, clip=1.0, sampling_rate=0.1)},
            "sampling gains no privacy",
        ),
        ({"privacy": Budget(epsilon=8, delta=1e-5, rounds=3, clip=1.0, figures=2)}, "leave out figures"),
        ({"privacy": Budget(epsilon=8, delta=0.0, rounds=3, clip=1.0)}, "delta is"),
        ({"privacy": 8.0}, "must be a"),
        ({"privacy": BUDGET, "protect_evaluate": True}, "exact averages"),
        ({"privacy": BUDGET, "graph": "sparse"}, "complete graph"),
        ({"privacy": BUDGET, "clip": 1.0, "value_bits": 16}, "clip, value_bits"),
        ({"ledger": "x.json"}, "with `privacy`"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        SecAggSettings.of(settings)


def test_limits_need_a_ledger() -> None:
    with pytest.raises(ConfigError, match="need both"):
        secagg_mod(privacy=LIMITS)


def test_an_impossible_plan_is_refused_before_anything_is_charged(tmp_path: Path) -> None:
    loopback = LoopbackGrid(make_app(secagg_mod()), NODES)
    grid = private_grid(loopback, ledger=tmp_path / "one.json", threshold=NODES + 1)
    with pytest.raises(FlowerError, match="threshold"):
        ask(grid, loopback)
    assert json.loads((tmp_path / "one.json").read_text())["charges"] == []

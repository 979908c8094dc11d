"""A run's settings: every wrong one is named, defaults are settled, and JSON gives back the same run."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from fl.config.run_config import DROPOUT_POINTS, SETTINGS, DataSettings, Protocol, RunConfig
from fl.data import DATASETS
from fl.errors import ConfigError
from fl.learning.settings import Local, ServerOptimization
from secagg import Round
from secagg.params import required_ring_bits
from transport.faults import ROUNDS_OF_EVERY_SESSION

WRONG = [
    ("dataset", "cifar"),
    ("model", "resnet"),
    ("partition", "random"),
    ("aggregator", "magic"),
    ("dropout_at", ("advertise-keys", "somewhere")),
    ("clients", 0),
    ("clients", -3),
    ("clients", 1),
    ("sample", 41),
    ("sample", -1),
    ("rounds", 0),
    ("rounds", -1),
    ("epochs", 0),
    ("batch_size", 0),
    ("shards_per_client", 0),
    ("dropout", -0.1),
    ("dropout", 1.0),
    ("dropout", 1.5),
    ("dropout", float("nan")),
    ("corrupt", -0.1),
    ("corrupt", 1.0),
    ("corrupt", float("nan")),
    ("server_learning_rate", 0.0),
    ("server_learning_rate", -1.0),
    ("server_learning_rate", float("inf")),
    ("server_learning_rate", float("nan")),
    ("seed", -1),
    ("learning_rate", 0.0),
    ("learning_rate", -1.0),
    ("learning_rate", float("nan")),
    ("momentum", 1.0),
    ("momentum", -0.5),
    ("alpha", 0.0),
    ("alpha", float("nan")),
    ("clip", 0.0),
    ("clip", float("inf")),
    ("graph", "star"),
    ("adversary", "gods"),
    ("threshold", 1),
    ("value_bits", 3),
    ("value_bits", 33),
    ("bfloat16", "maybe"),
    ("optimizer", "lion"),
    ("weight_decay", -0.1),
    ("proximal", -0.1),
    ("proximal", float("nan")),
    ("learning_rate_decay", 0.0),
    ("learning_rate_decay", 1.1),
    ("learning_rate_decay", float("nan")),
    ("server_optimizer", "fedlion"),
    ("server_momentum", 1.0),
    ("server_beta2", -0.1),
    ("server_tau", 0.0),
    ("dropout_model", "sometimes"),
    ("holdout", 1.0),
    ("holdout", -0.1),
    ("engine", "steam"),
]


@pytest.mark.parametrize(("name", "value"), WRONG)
def test_a_wrong_value_is_refused_by_its_name(name: str, value: Any) -> None:
    words = {
        "dropout_at": "dropout point",
        "dropout_model": "dropout model",
        "server_optimizer": "server optimizer",
        "value_bits": "value.bits",
        "clip": "clip",
    }.get(name, name)
    with pytest.raises(ConfigError, match=words):
        RunConfig.of(**{name: value})


def test_all_wrong_values_are_named_at_once() -> None:
    with pytest.raises(ConfigError) as refused:
        RunConfig.of(
            dataset="cifar", model="resnet", partition="random", clients=10, sample=11, rounds=-2, epochs=0,
            dropout=1.5, dropout_at=("nowhere",), corrupt=-1.0, server_learning_rate=0.0, seed=-1,
        )  # fmt: skip
    said = str(refused.value)
    for word in (
        "cifar", "resnet", "random", "sample", "not 11", "rounds", "not -2", "epochs", "dropout must", "not 1.5",
        "nowhere", "corrupt", "server_learning_rate", "seed",
    ):  # fmt: skip
        assert word in said


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="digits, fashion-mnist, mnist, mnist-writers"):
        RunConfig.of(dataset="cifar")
    with pytest.raises(ConfigError, match="any, advertise-keys, share-keys, masked-input-collection, consis"):
        RunConfig.of(dropout_at=("nowhere",))


def test_one_client_is_enough_in_the_clear_only() -> None:
    assert RunConfig.of(clients=1, aggregator="plain").sample == 1
    with pytest.raises(ConfigError, match="at least 2 clients"):
        RunConfig.of(clients=1)


def test_comparing_plain_with_plain_is_refused() -> None:
    with pytest.raises(ConfigError, match="compare"):
        RunConfig.of(aggregator="plain", compare=True)


def test_a_refused_config_is_reported_at_once_when_it_is_changed() -> None:
    with pytest.raises(ConfigError, match="rounds"):
        dataclasses.replace(RunConfig(), rounds=0)


@pytest.mark.parametrize(
    ("dataset", "model", "partition"),
    [
        ("digits", "small-cnn", "iid"),
        ("fashion-mnist", "cnn", "iid"),
        ("mnist", "cnn", "iid"),
        ("mnist-writers", "cnn", "by-writer"),
    ],
)
def test_model_and_partition_suit_the_data_set(dataset: str, model: str, partition: str) -> None:
    config = RunConfig.of(dataset=dataset)
    assert (config.model, config.partition) == (model, partition)
    chosen = RunConfig.of(dataset=dataset, model="2nn", partition="shards")
    assert (chosen.model, chosen.partition) == ("2nn", "shards")


def test_every_data_set_has_defaults_that_stand() -> None:
    for dataset in DATASETS:
        RunConfig.of(dataset=dataset)


def test_all_clients_take_part_by_default() -> None:
    assert RunConfig.of(clients=17).sample == 17
    assert RunConfig.of(clients=17, sample=3).sample == 3


def test_default_values_are_as_wide_as_a_ring_of_32_bits_takes() -> None:
    """24 bits, or fewer if the sum of the sample's would not fit 32; and not fewer than that."""
    too_wide, too_narrow = [], []
    for sample in range(2, 5001):
        bits = RunConfig.of(clients=5000, sample=sample).value_bits
        if required_ring_bits(sample, bits) > 32 or bits > 24:
            too_wide.append(sample)
        if bits < 24 and required_ring_bits(sample, bits + 1) <= 32:
            too_narrow.append(sample)
    assert too_wide == []
    assert too_narrow == []


def test_chosen_value_bits_are_kept() -> None:
    assert RunConfig.of(value_bits=32).value_bits == 32
    assert RunConfig.of(value_bits=4).value_bits == 4


def test_dropout_points_are_the_protocols_rounds_in_their_order() -> None:
    assert RunConfig().dropout_rounds == ROUNDS_OF_EVERY_SESSION
    points = ("unmasking", "share-keys", "unmasking")
    assert RunConfig.of(dropout_at=points).dropout_rounds == (Round.SHARE_KEYS, Round.UNMASKING)
    assert {round_ for rounds in DROPOUT_POINTS.values() for round_ in rounds} == set(Round)
    with pytest.raises(ConfigError, match="there is no consistency-check"):
        RunConfig.of(dropout_at=("consistency-check",))
    signed = RunConfig.of(dropout_at=("consistency-check",), adversary="malicious")
    assert signed.dropout_rounds == (Round.CONSISTENCY_CHECK,)


def test_local_training_gets_the_clients_settings() -> None:
    config = RunConfig.of(epochs=3, batch_size=7, learning_rate=0.2, momentum=0.3, channels_last=False, bfloat16="off")
    assert config.local == Local(
        epochs=3, batch_size=7, learning_rate=0.2, momentum=0.3, channels_last=False, bfloat16="off"
    )


@pytest.mark.parametrize(
    "config",
    [
        RunConfig(),
        RunConfig.of(
            dataset="mnist-writers", model="2nn", clients=300, sample=30, rounds=7, epochs=2, batch_size=32,
            learning_rate=0.05, momentum=0.9, server_learning_rate=0.5, partition="dirichlet", alpha=0.1,
            shards_per_client=3, dropout=0.2, dropout_at=("share-keys", "unmasking"), corrupt=0.1, compare=True,
            clip=0.25, value_bits=20, seed=123456789012, channels_last=False, bfloat16="off",
        ),
        RunConfig.of(aggregator="plain", clients=1),
    ],
)  # fmt: skip
def test_json_gives_back_the_same_run(config: RunConfig) -> None:
    values = json.loads(json.dumps(config.to_json()))
    assert set(values) == set(SETTINGS)
    assert RunConfig.from_json(values) == config.settled() == config.settled().settled()


@pytest.mark.parametrize("change", [{"more": 1}, {"seed": None}, {"more": 1, "clip": None}])
def test_json_of_another_version_is_refused_with_the_names(change: dict[str, Any]) -> None:
    """None means that a name is missing."""
    values = {**RunConfig().to_json(), **change}
    values = {name: value for name, value in values.items() if value is not None}
    with pytest.raises(ConfigError) as refused:
        RunConfig.from_json(values)
    for name in change:
        assert name in str(refused.value)


def test_json_out_of_range_is_refused() -> None:
    with pytest.raises(ConfigError, match="clients"):
        RunConfig.from_json({**RunConfig().to_json(), "clients": -1})


def test_options_and_parts_are_the_same_run() -> None:
    config = RunConfig(
        data=DataSettings(clients=6, holdout=0.1),
        local=Local(epochs=2, batch_size=10, learning_rate=0.1, momentum=0.5),
        server=ServerOptimization(optimizer="fedadam", tau=0.01),
        protocol=Protocol(sample=3, dropout_at=("unmasking",)),
        rounds=4,
    )
    changes: dict[str, Any] = {"server_optimizer": "fedadam", "server_tau": 0.01, "dropout_at": ["unmasking"]}
    assert config == RunConfig.of(clients=6, holdout=0.1, epochs=2, sample=3, rounds=4, **changes)
    assert RunConfig.of(**config.options()) == config


def test_an_unknown_option_is_named() -> None:
    with pytest.raises(TypeError, match="no options epoch, lr"):
        RunConfig.of(lr=1, epoch=2, rounds=3)


def test_settings_that_were_not_given_are_settled_late() -> None:
    """They follow a later change of another setting; stored settings stay the same."""
    config = RunConfig.of(dataset="mnist", clients=17)
    assert dataclasses.replace(config, data=DataSettings(dataset="mnist-writers", clients=9)).sample == 9
    assert config.protocol.sample is config.data.model is config.server.learning_rate is None
    settled = config.settled()
    assert (settled.protocol.sample, settled.data.model, settled.server.learning_rate) == (17, "cnn", 1.0)


@pytest.mark.parametrize(
    "name", ["model", "partition", "sample", "server_learning_rate", "value_bits", "threads", "clip"]
)
def test_only_none_stands_for_the_default(name: str) -> None:
    assert RunConfig.of(**{name: None}) == RunConfig()
    with pytest.raises(ConfigError):
        RunConfig.of(**{name: "" if name in ("model", "partition") else 0})


def test_learning_rates_fall_by_rounds_and_never_to_nothing() -> None:
    local = RunConfig.of(learning_rate=0.1, learning_rate_decay=0.5).local
    assert [local.in_round(number).learning_rate for number in (1, 2, 3)] == [0.1, 0.05, 0.025]
    assert local.in_round(5000).learning_rate > 0
    assert local.in_round(2).learning_rate_decay == 1.0
    assert dataclasses.replace(local, learning_rate=5e-324).in_round(1).learning_rate == 5e-324

"""The command on the page is the run's, to the last option."""

from __future__ import annotations

import shlex
from typing import Any

import pytest

from fl.config.run_config import RunConfig
from fl.report.command_line import is_default, train_command
from tests.fl.runs import invoke

CONFIGS = [
    RunConfig(),
    RunConfig.of(dataset="fashion-mnist", clients=6, compare=True, holdout=0.1),
    RunConfig.of(dataset="mnist-writers", model="2nn", clients=539, sample=100, dropout=0.2, dropout_model="slow"),
    RunConfig.of(partition="dirichlet", alpha=0.05, learning_rate=1e-5, server_tau=1e-9, optimizer="adam"),
    RunConfig.of(aggregator="plain", channels_last=False, bfloat16="off", dropout_at=("share-keys", "unmasking")),
    RunConfig.of(sample=10, value_bits=12, clip=0.25, seed=2**62, server_optimizer="fedyogi", server_beta2=0.5),
    RunConfig.of(dataset="my data.sets:load it's", model="a;b:$(rm -rf .)"),
    RunConfig.of(model="small-cnn", partition="iid", sample=40, value_bits=24),
]


@pytest.mark.parametrize("config", CONFIGS, ids=range(len(CONFIGS)))
def test_the_command_gives_the_config_again(config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[RunConfig] = []

    class Stop(Exception):  # noqa: N818 - no error, the end of what is looked at
        pass

    def start(config: RunConfig, *_: Any, **__: Any) -> None:
        given.append(config)
        raise Stop

    monkeypatch.setattr("fl.commands.train.start_training", start)
    words = shlex.split(train_command(config))
    assert words[0] == "secagg"
    result = invoke(*words[1:])
    assert isinstance(result.exception, Stop), result.output
    assert given[0].settled() == config.settled()


def test_default_options_are_left_out() -> None:
    assert train_command(RunConfig()) == "secagg train"
    assert train_command(RunConfig.of(dataset="mnist-writers", clients=539)) == (
        "secagg train --dataset mnist-writers --clients 539"
    )
    # The model is the data set's own, and 28 bits are not the default for 40 clients.
    assert is_default(RunConfig.of(dataset="mnist"), "model")
    assert not is_default(RunConfig.of(dataset="mnist", model="2nn"), "model")
    assert not is_default(RunConfig.of(value_bits=8), "value_bits")

"""Settings files as editors and hurried people write them."""

from __future__ import annotations

from pathlib import Path

import pytest

from fl.config.config_file import read_config_file
from fl.config.run_config import RunConfig
from fl.errors import ConfigError

SETTLED = RunConfig(server_optimizer="fedadam", epochs=3, learning_rate=0.25, clip=0.5)


def toml_of(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else repr(list(value) if isinstance(value, tuple) else value)


@pytest.mark.parametrize("name", RunConfig.__dataclass_fields__)
def test_every_setting_can_be_written(tmp_path: Path, name: str) -> None:
    path = tmp_path / "run.toml"
    value = getattr(SETTLED, name)
    path.write_text(f"{name} = {toml_of(value)}\n")
    assert read_config_file(path) == {name: value}


def test_a_whole_number_is_a_learning_rate_too(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text('server_optimizer = "fedadam"\nserver_learning_rate = 1\n')
    assert RunConfig(**read_config_file(path)).server_learning_rate == 1.0


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_a_byte_order_mark_is_no_setting(tmp_path: Path, line_end: str) -> None:
    path = tmp_path / "run.toml"
    path.write_bytes(f"\ufeffepochs = 3{line_end}clients = 6{line_end}".encode())
    assert read_config_file(path) == {"epochs": 3, "clients": 6}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("learning-rate = 0.1", "unknown learning-rate: did you mean learning_rate?"),
        ("learing_rate = 0.1", "unknown learing_rate: did you mean learning_rate?"),
        ("lr = 0.1", "unknown lr: did you mean learning_rate?"),
        ("server_lr = 0.1", "unknown server_lr: did you mean server_learning_rate?"),
        ("Batch-Size = 4", "unknown Batch-Size: did you mean batch_size?"),
        ("client = 4", "unknown client: did you mean clients?"),
        ('out = "runs/x"', "unknown out: settings are dataset, model, "),
        ("[training]\nepochs = 2", "unknown training: settings stand in no table: leave out [training]"),
        ("lr = 0.1\nbatch = 2", "unknown lr: did you mean learning_rate?; unknown batch: did you mean batch_size?"),
    ],
)
def test_what_is_no_setting_is_named_with_the_one_that_was_meant(tmp_path: Path, line: str, said: str) -> None:
    path = tmp_path / "run.toml"
    path.write_text(line)
    with pytest.raises(ConfigError) as raised:
        read_config_file(path)
    assert said in str(raised.value)


def test_another_encoding_is_named(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_bytes("epochs = 3\n".encode("utf-16"))
    with pytest.raises(ConfigError, match="it is not UTF-8 text; save it as UTF-8"):
        read_config_file(path)

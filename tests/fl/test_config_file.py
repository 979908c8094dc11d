"""Settings files as editors and hurried people write them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fl.config.config_file import read_config_file
from fl.config.run_config import SETTINGS, RunConfig
from fl.errors import ConfigError

SETTLED = RunConfig.of(
    server_optimizer="fedadam", epochs=3, learning_rate=0.25, clip=0.5, threads=2, threshold=30,
    holdout=0.2, personalize="ditto", personal_epochs=2, personal_learning_rate=0.5,
).settled()  # fmt: skip

# It excludes some of the others.
PRIVATE = RunConfig.of(epsilon=3.0, delta=1e-5, ring_bits=20, clip_quantile=0.5, figure_ranges=("loss=0:4",)).settled()


def settled(option: str) -> Any:
    return (PRIVATE if SETTINGS[option].section == "privacy" else SETTLED).options()[option]


def toml_of(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else repr(list(value) if isinstance(value, tuple) else value)


def read(path: Path, text: str) -> dict[str, Any]:
    (path / "run.toml").write_text(text)
    return read_config_file(path / "run.toml")


@pytest.mark.parametrize("option", SETTINGS)
def test_every_setting_can_be_written_in_its_section(tmp_path: Path, option: str) -> None:
    setting = SETTINGS[option]
    value = settled(option)
    section = f"[{setting.section}]\n" if setting.section else ""
    assert read(tmp_path, f"{section}{setting.name} = {toml_of(value)}\n") == {option: value}


def test_a_whole_number_is_a_learning_rate_too(tmp_path: Path) -> None:
    values = read(tmp_path, '[server]\noptimizer = "fedadam"\nlearning_rate = 1\n')
    assert RunConfig.of(**values).server.rate == 1.0


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_a_byte_order_mark_is_not_a_setting(tmp_path: Path, line_end: str) -> None:
    path = tmp_path / "run.toml"
    path.write_bytes(f"\ufeffrounds = 3{line_end}[data]{line_end}clients = 6{line_end}".encode())
    assert read_config_file(path) == {"rounds": 3, "clients": 6}


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("[local]\nlearning-rate = 0.1", "unknown learning-rate in [local]: did you mean learning_rate?"),
        ("[local]\nlearing_rate = 0.1", "unknown learing_rate in [local]: did you mean learning_rate?"),
        ("[local]\nlr = 0.1", "unknown lr in [local]: did you mean learning_rate?"),
        ("[local]\nBatch-Size = 4", "unknown Batch-Size in [local]: did you mean batch_size?"),
        ("[data]\nclient = 4", "unknown client in [data]: did you mean clients?"),
        ("[server]\nserver_tau = 1", "unknown server_tau in [server]: did you mean tau?"),
        ("[server]\nlearnin_rate = 1", "unknown learnin_rate in [server]: did you mean learning_rate?"),
        ("[local]\nserver_lr = 0.1", "unknown server_lr in [local]: did you mean learning_rate in [server]?"),
        ("[local]\nrounds = 2", "unknown rounds in [local]: did you mean rounds above all sections?"),
        ("[local]\nout = 2", "unknown out in [local]: settings are epochs, batch_size, "),
        ("[training]\nepochs = 2", "unknown section [training]: sections are data, local, server, protocol"),
        ("[training]", "unknown section [training]: sections are data, local, server, protocol"),
        ("rond = 2", "unknown rond: did you mean rounds?"),
        (
            "[local]\nlr = 1\nbatch = 2",
            "did you mean learning_rate?; unknown batch in [local]: did you mean batch_size?",
        ),
    ],
)
def test_an_unknown_setting_is_named_with_the_similar_one(tmp_path: Path, lines: str, said: str) -> None:
    with pytest.raises(ConfigError) as raised:
        read(tmp_path, lines)
    assert said in str(raised.value)


@pytest.mark.parametrize("option", [option for option, setting in SETTINGS.items() if setting.section])
def test_a_name_without_its_section_is_refused_with_the_section(tmp_path: Path, option: str) -> None:
    setting = SETTINGS[option]
    with pytest.raises(ConfigError) as raised:
        read(tmp_path, f"{option} = {toml_of(settled(option))}\n")
    assert f"unknown {option}: did you mean {setting.name} in [{setting.section}]?" in str(raised.value)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("rounds = 2.5", "rounds must be a whole number, not 2.5"),
        ('[local]\nepochs = "3"', "epochs must be a whole number, not '3'"),
        ("[local]\nchannels_last = 1", "channels_last must be true or false, not 1"),
        ("[data]\nmodel = 1", "model must be a text in quotes, not 1"),
        ('[data]\nmodel = "a\\u0000"', "model must be a text in quotes, not 'a\\x00'"),
        ('[protocol]\ndropout_at = "any"', "dropout_at must be a list of texts, not 'any'"),
        ("[local]\nepochs = true", "epochs must be a whole number, not True"),
    ],
)
def test_a_value_of_another_type_is_refused(tmp_path: Path, lines: str, said: str) -> None:
    with pytest.raises(ConfigError) as raised:
        read(tmp_path, lines)
    assert said in str(raised.value)


def test_another_encoding_is_named(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_bytes("epochs = 3\n".encode("utf-16"))
    with pytest.raises(ConfigError, match="it is not UTF-8 text; save it as UTF-8"):
        read_config_file(path)

"""Options that are built from settings: one name, one meaning, one text and one default in all commands."""

import inspect
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import fields
from typing import Annotated, Any

from typer import Option

from fl.config.config_file import SHORT, plain_type
from fl.config.run_config import DROPOUT_POINTS, ENGINES, SETTINGS
from fl.errors import ConfigError
from transport import Deadlines
from transport.tcp import Limits

LIMITS = "Limits"
"""The help panel of what connections may take; in a settings file, section ``limits``."""

_PANELS = {
    "data": "Data and model",
    "local": "Local training",
    "server": "Server optimizer",
    "protocol": "Protocol",
    "": "Run",
}
_MIB = 1 << 20

_HELP = {
    "dataset": "digits, fashion-mnist, mnist, mnist-writers, leaf-femnist, or your own: package.module:loader.",
    "model": "2nn, cnn, cnn3, cnn3-mirror, small-cnn, small-cnn-square, logistic, mlp-500, mlp-500-square, or your "
    "own: package.module:factory (default: by data).",
    "clients": "Clients that the training data is dealt out to.",
    "partition": "iid, shards, dirichlet, by-writer or by-owner (default: by-writer for mnist-writers and "
    "leaf-femnist, else iid, for your own data set as well).",
    "alpha": "Concentration of the dirichlet partition.",
    "shards_per_client": "Shards of each client in the shards partition.",
    "holdout": "Fraction of each client's examples to measure the model on, by secure aggregation.",
    "epochs": "Local epochs a round.",
    "batch_size": "Local batch size.",
    "learning_rate": "Local learning rate.",
    "momentum": "Local momentum (SGD).",
    "optimizer": "Local optimizer: sgd or adam.",
    "weight_decay": "Local weight decay.",
    "proximal": "FedProx: pulls local weights to the global ones.",
    "learning_rate_decay": "The local learning rate is multiplied by this after each round.",
    "channels_last": "Convolutions in the fast memory layout.",
    "bfloat16": "auto, on or off: local training in bfloat16.",
    "server_optimizer": "fedavg, fedavgm, fedadagrad, fedadam or fedyogi.",
    "server_learning_rate": "With fedavg, multiplies the mean update (default: 1; fedadagrad 0.1, fedadam and fedyogi "
    "0.03).",
    "server_momentum": "Momentum, or beta1, of all server optimizers but fedavg.",
    "server_beta2": "beta2 of fedadam and fedyogi.",
    "server_tau": "Adaptivity of fedadagrad, fedadam and fedyogi.",
    "sample": "Clients that take part in a round (default: all).",
    "dropout": "Fraction of the sampled clients that vanish.",
    "dropout_at": f"Where they vanish: {', '.join(DROPOUT_POINTS)}; may be repeated (default: any).",
    "dropout_model": "independent, or slow: slow clients vanish more often, the same ones each time.",
    "corrupt": "Fraction that may work with the server.",
    "aggregator": "secure or plain.",
    "compare": "Run the plain aggregator too, and compare the sums.",
    "clip": "Clip all elements of updates to this (default: bounds that follow them).",
    "value_bits": "Bits that an element is rounded to (default: at most 24, for a ring of 32).",
    "rounds": "Communication rounds.",
    "seed": "Random seed (keys and masks are never seeded).",
    "engine": f"Where clients train: {', '.join(ENGINES)}.",
    "threads": "PyTorch threads for a client (default: by engine and model).",
}

_LIMITS_HELP = {
    "first_byte_seconds": "Seconds to the first byte of a TLS handshake.",
    "handshake_seconds": "Seconds to the end of a TLS handshake, and again to the first frame.",
    "frame_seconds": "Seconds for a frame that has begun, and one more for each --minimum-rate bytes received.",
    "minimum_rate": "Bytes a second that a line has at least.",
    "idle_seconds": "Silence after which the other side is asked whether it is there.",
    "answer_seconds": "Seconds that it then has to say anything.",
    "stall_seconds": "A connection ends when 64 KiB do not go out in this many seconds.",
    "connections": "Open connections that have shown who they are.",
    "connections_per_address": "The same, from one IP address (IPv6: one /64 network).",
    "connections_per_client": "The same, of one client; for a further one its oldest is closed.",
    "handshakes": "Open connections that have not yet shown who they are.",
    "handshakes_per_address": "The same, from one IP address (IPv6: one /64 network).",
    "memory": "MiB for updates that come in at once; further clients send theirs after them.",
    "commit_seconds": "What happens within this time is written to the journal together.",
    "farewell_seconds": "Seconds to wait, after a session, for clients that have not been told its end.",
}

CLIENT_LIMITS = (
    *("handshake_seconds", "frame_seconds", "minimum_rate", "idle_seconds", "answer_seconds", "stall_seconds"),
)
"""The `Limits` that are a client's too."""

_DEADLINES = {
    "join_seconds": ("advertise_keys", 10.0, "How long a round waits for those not there yet."),
    "reply_seconds": ("share_keys consistency_check unmasking", 30.0, "How long for answers that need no training."),
    "training_seconds": ("masked_input_collection", 600.0, "How long for the trained updates."),
    "download_seconds": ("download", 600.0, "How long joining stays open for clients that still get the model."),
}


NOT_SETTLED = {*_LIMITS_HELP, *_DEADLINES}
"""Limits and deadlines: a run that is resumed may have others."""


def training_options(
    names: Iterable[str] = SETTINGS, help_texts: Mapping[str, str] | None = None, required: Collection[str] = ()
) -> Iterator[inspect.Parameter]:
    """Yield the options of these settings of a run, in the help panels of their sections.

    Args:
        names: of `SETTINGS`.
        help_texts: instead of the usual ones.
        required: those that have no default here.
    """
    texts = _HELP | dict(help_texts or {})
    for name in names:
        setting = SETTINGS[name]
        # What a list has by default is said in its text: on the command line none is empty.
        default = None if plain_type(setting.type) is tuple or name in required else setting.default
        yield _option(name, plain_type(setting.type), default, texts[name], _PANELS[setting.section])


def limit_options(names: Iterable[str] = tuple(_LIMITS_HELP)) -> Iterator[inspect.Parameter]:
    """Yield the options of these `Limits`."""
    defaults = Limits()
    for name in names:
        default = getattr(defaults, name)
        default = default // _MIB if name == "memory" else default
        yield _option(name, type(default), default, _LIMITS_HELP[name], LIMITS)


def deadline_options() -> Iterator[inspect.Parameter]:
    """Yield the options of the rounds' `Deadlines`."""
    for name, (_, default, text) in _DEADLINES.items():
        yield _option(name, float, default, text, LIMITS)


def chosen_limits(values: Mapping[str, Any]) -> Limits:
    """Return the limits of these options; ConfigError that names the option of one that is out of range."""
    chosen = {field.name: values[field.name] for field in fields(Limits) if field.name in values}
    _check_positive(chosen)
    return Limits(**{name: value * _MIB if name == "memory" else value for name, value in chosen.items()})


def chosen_deadlines(values: Mapping[str, Any]) -> Deadlines:
    """Return the deadlines of these options; ConfigError as above."""
    _check_positive({name: values[name] for name in _DEADLINES})
    seconds = {round_: values[name] for name, (rounds, _, _) in _DEADLINES.items() for round_ in rounds.split()}
    return Deadlines(**seconds)


def _check_positive(values: Mapping[str, Any]) -> None:
    if wrong := {name: value for name, value in values.items() if not value > 0}:
        raise ConfigError("; ".join(f"{_dashed(name)} must be above 0, not {value}" for name, value in wrong.items()))


def _option(name: str, kind: Any, default: Any, text: str, panel: str) -> inspect.Parameter:
    # A flag's names are made from the parameter's, with its opposite.
    names = [] if kind is bool else [f"--{_dashed(one)}" for one in (name, *SHORT) if SHORT.get(one, name) == name]
    annotation: Any = list[str] if kind is tuple else kind
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=default,
        annotation=Annotated[
            annotation | None if default is None else annotation, Option(*names, help=text, rich_help_panel=panel)
        ],
    )


def _dashed(name: str) -> str:
    return name.replace("_", "-")

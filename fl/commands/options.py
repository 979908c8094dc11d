"""Options that are made from settings, so that each has one meaning, one text and one default in all commands."""

import inspect
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import fields
from typing import Annotated, Any

from typer import Option

from fl.aggregation.planning import ADVERSARIES
from fl.config.config_file import SHORT, plain_type
from fl.config.run_config import DROPOUT_POINTS, ENGINES, SETTINGS
from fl.errors import ConfigError
from fl.privacy.policy import PrivacyPolicy
from transport import Deadlines
from transport.tcp import Limits

LIMITS = "Limits"
PRIVACY = "Differential privacy"
"""The help panel of the limits of connections; in a settings file, the section ``limits``."""

_PANELS = {
    "data": "Data and model",
    "local": "Local training",
    "server": "Server optimizer",
    "protocol": "Protocol",
    "personal": "Personal models",
    "privacy": PRIVACY,
    "": "Run",
}
_MIB = 1 << 20

_HELP = {
    "dataset": "digits, fashion-mnist, mnist, mnist-writers, leaf-femnist, or your own as package.module:loader.",
    "model": "2nn, cnn, cnn3, cnn3-mirror, small-cnn, small-cnn-square, logistic, mlp-500, mlp-500-square, or your "
    "own as package.module:factory (default: small-cnn for digits, 2nn for your own data set, else cnn).",
    "loss": "Loss to train with: cross-entropy, mse, mae, huber, bce-with-logits, or your own as package.module:name "
    "(default: cross-entropy).",
    "metrics": "Metric to measure: accuracy, binary-accuracy, mse, mae, or your own as package.module:name; repeatable "
    "(default: accuracy with cross-entropy).",
    "clients": "Number of clients; the training data is split among them.",
    "partition": "Split of the data among clients: iid, shards, dirichlet, by-writer or by-owner (default: by-writer "
    "for mnist-writers and leaf-femnist, else iid).",
    "alpha": "Concentration of the dirichlet partition; smaller values make clients' data differ more.",
    "shards_per_client": "Shards that each client gets in the shards partition; fewer make clients' data differ more.",
    "holdout": "Fraction of each client's examples that are kept out of training, to measure the model on them.",
    "epochs": "Passes of a client through its examples in each round.",
    "batch_size": "Examples per step of a client's training.",
    "learning_rate": "Learning rate of a client's training.",
    "momentum": "Momentum of a client's SGD (adam ignores it).",
    "optimizer": "Optimizer of a client's training: sgd or adam.",
    "weight_decay": "Weight decay of a client's training.",
    "proximal": "FedProx's mu: strength of the pull of a client's weights to the global model (0: none).",
    "learning_rate_decay": "Factor by which the clients' learning rate is multiplied after each round.",
    "channels_last": "Store images with channels last, which makes convolutions faster.",
    "bfloat16": "Compute clients' training in bfloat16: on, off, or auto (where the CPU is faster with it).",
    "server_optimizer": "How the server applies the mean update: fedavg, fedavgm, fedadagrad, fedadam or fedyogi.",
    "server_learning_rate": "Learning rate of the server's optimizer (default: 1 for fedavg and fedavgm, 0.1 for "
    "fedadagrad, 0.03 for fedadam and fedyogi).",
    "server_momentum": "Momentum of fedavgm; beta1 of fedadagrad, fedadam and fedyogi.",
    "server_beta2": "beta2 of fedadam and fedyogi.",
    "server_tau": "tau of fedadagrad, fedadam and fedyogi; it limits their steps where past updates were small.",
    "graph": "Clients that share masks: complete: all with all; sparse: each with a few, for many clients; auto: the "
    "cheaper one that is safe for the threat.",
    "adversary": f"What the protocol must withstand: {', '.join(ADVERSARIES)} (default: honest-but-curious).",
    "corrupt": "Fraction of the clients that may collude with the server; raises the threshold.",
    "threshold": "Clients whose shares are needed to unmask the sum; on a sparse graph, of a client's neighbours "
    "(default: the smallest safe number).",
    "sample": "Clients that take part in each round, drawn at random (default: all).",
    "dropout": "Fraction of a round's clients that drop out.",
    "dropout_at": f"Round in which they drop out: {', '.join(DROPOUT_POINTS)}; repeatable (default: any).",
    "dropout_model": "independent: all clients are equally likely to drop out; slow: slow clients are more likely.",
    "aggregator": "secure: the server learns only the sum of updates; plain: it sees each update.",
    "compare": "Also train with the plain aggregator, and check the secure sums against plain ones.",
    "clip": "Clip all elements of updates to this value (default: bounds that adapt to the updates).",
    "value_bits": "Bits to which each element of an update is rounded (default: 24, or fewer for a ring of 32 bits).",
    "personalize": "Let each client make a model of its own, measured on its held-out examples: head, full, proximal "
    "or ditto (default: none).",
    "personal_epochs": "Passes through the client's examples for it; with ditto, in each round (default: --epochs).",
    "personal_learning_rate": "Learning rate of the personal model (default: --learning-rate).",
    "personal_strength": "Pull of the personal model to the global one, with proximal and ditto.",
    "epsilon": "Bound what all rounds together say of one client, by noise from each client (default: no noise).",
    "delta": "Probability that the bound fails; at most 1 over the number of clients. Needed with --epsilon.",
    "l2_clip": "L2 norm to which each client's whole update is scaled down; with --clip-quantile, the first one.",
    "clip_quantile": "Let the clip follow this quantile of the updates' norms, such as 0.5 (default: it stays).",
    "clip_rate": "Speed with which the clip follows: it moves by at most e^RATE a round.",
    "figures_cost": "Noise that reporting loss, metrics and clipped updates (as noisy means) adds to updates, as a "
    "fraction (0: none are reported).",
    "figure_ranges": "Range of the loss or a metric in a private run, as NAME=LOW:HIGH; repeatable (default: accuracy "
    "0 to 1, cross-entropy 0 to 2 ln(classes); others are not reported).",
    "noise": "Distribution of the noise: skellam or gaussian.",
    "ring_bits": "Bits of an element with its noise (default: the fewest that cost 1% more noise).",
    "exact_noise": "Take off the noise that a sum does not need because more clients stayed than planned.",
    "rounds": "Rounds of training; each sends the model to clients and adds up their updates.",
    "seed": "Random seed (keys and masks are never seeded).",
    "engine": f"How clients are trained on this machine or a cluster: {', '.join(ENGINES)}.",
    "threads": "PyTorch threads for each client (default: 1, but all cores for large models with --engine serial).",
}

_LIMITS_HELP = {
    "first_byte_seconds": "Longest wait for the first byte of a TLS handshake, in seconds.",
    "handshake_seconds": "Longest TLS handshake, in seconds; also the longest wait for the first frame after it.",
    "frame_seconds": "Seconds to receive a frame, plus one second per --minimum-rate bytes received.",
    "minimum_rate": "Slowest connection that is accepted, in bytes per second; see --frame-seconds.",
    "idle_seconds": "Seconds of silence after which the other side is asked for a sign of life.",
    "answer_seconds": "Seconds that the other side then has to answer, before the connection is closed.",
    "stall_seconds": "A connection is closed if it does not take 64 KiB in this many seconds.",
    "connections": "Most open connections of authenticated clients.",
    "connections_per_address": "Most of these connections from one IP address (IPv6: one /64 network).",
    "connections_per_client": "Most of these connections of one client; a further one replaces the oldest.",
    "handshakes": "Most open connections that are not yet authenticated.",
    "handshakes_per_address": "Most of these from one IP address (IPv6: one /64 network).",
    "memory": "Memory for updates that arrive at once, in MiB; further clients send theirs later.",
    "commit_seconds": "Messages that arrive within this many seconds are written to the journal together.",
    "farewell_seconds": "Seconds to wait, after a session, for clients that have not yet been told its result.",
}

# What a client decides for itself, whatever a server plans.
_CLIENT_PRIVACY: dict[str, tuple[type, Any, str]] = {
    "max_epsilon": (
        float,
        None,
        "Most that all rounds together may say of this client: whatever anybody sees, its odds are at most e^epsilon "
        "times as high with your examples as without. Rounds without noise are then declined, and so are rounds that "
        "would go beyond it; needs --delta and --state (default: no bound).",
    ),
    "max_epsilon_per_round": (float, None, "Most that a single round may say of this client (default: no bound)."),
    "delta": (
        float,
        None,
        "Probability that these bounds fail: well below 1 over the number of clients.",
    ),
    "min_honest": (
        int,
        1,
        "Fewest honest clients in a sum, this one included, that rounds must have, whatever their epsilon.",
    ),
    "assume_corrupt": (
        float,
        0.0,
        "Fraction of the clients that may share what they know with the server: their noise does not count, and rounds "
        "must withstand them.",
    ),
}

CLIENT_LIMITS = (
    *("handshake_seconds", "frame_seconds", "minimum_rate", "idle_seconds", "answer_seconds", "stall_seconds"),
)
"""The `Limits` that clients have too."""

_DEADLINES = {
    "join_seconds": ("advertise_keys", 10.0, "Seconds that a round waits for clients that are not connected yet."),
    "reply_seconds": (
        "share_keys consistency_check unmasking",
        30.0,
        "Seconds that clients have for answers without training.",
    ),
    "training_seconds": (
        "masked_input_collection",
        600.0,
        "Seconds that clients have to train and send their updates.",
    ),
    "download_seconds": ("download", 600.0, "Extra seconds to join for clients that are still downloading the model."),
}


NOT_SETTLED = {*_LIMITS_HELP, *_DEADLINES}
"""Limits and deadlines, which may change when a run is resumed."""


def training_options(
    names: Iterable[str] = SETTINGS, help_texts: Mapping[str, str] | None = None, required: Collection[str] = ()
) -> Iterator[inspect.Parameter]:
    """Yield the options of these settings of a run, in the help panels of their sections.

    Args:
        names: of `SETTINGS`.
        help_texts: replace the usual texts, by name.
        required: names of options without a default.
    """
    texts = _HELP | dict(help_texts or {})
    for name in names:
        setting = SETTINGS[name]
        # A list's default is in its help text, since the command line cannot show it.
        default = None if plain_type(setting.type) is tuple or name in required else setting.default
        yield _option(name, plain_type(setting.type), default, texts[name], _PANELS[setting.section])


def help_of(name: str) -> str:
    """Return the text of this setting's option, for commands that run no training."""
    return _HELP[name].replace(" (default: honest-but-curious)", "")


def limit_options(names: Iterable[str] = tuple(_LIMITS_HELP)) -> Iterator[inspect.Parameter]:
    """Yield the options of these `Limits`."""
    defaults = Limits()
    for name in names:
        default = getattr(defaults, name)
        default = default // _MIB if name == "memory" else default
        yield _option(name, type(default), default, _LIMITS_HELP[name], LIMITS)


def client_privacy_options() -> Iterator[inspect.Parameter]:
    """Yield the options of a client's own bounds of privacy."""
    for name, (kind, default, text) in _CLIENT_PRIVACY.items():
        yield _option(name, kind, default, text, PRIVACY)


def chosen_privacy(values: Mapping[str, Any]) -> PrivacyPolicy | None:
    """Return the bounds that these options set; None without any. ConfigError names what is missing or wrong."""
    epsilon, delta = values["max_epsilon"], values["delta"]
    others = [name for name in ("max_epsilon_per_round", "delta") if values[name] is not None]
    others += ["min_honest"] * (values["min_honest"] != 1)
    if epsilon is None:
        if others:
            raise ConfigError(f"{', '.join(_dashed(name) for name in others)}: only with max-epsilon")
        return None
    if delta is None:
        raise ConfigError("max-epsilon needs a delta, well below 1 over the number of clients, such as 1e-6")
    return PrivacyPolicy(
        max_epsilon=epsilon,
        delta=delta,
        max_epsilon_per_round=values["max_epsilon_per_round"],
        min_honest=values["min_honest"],
    )


def deadline_options() -> Iterator[inspect.Parameter]:
    """Yield the options of the rounds' `Deadlines`."""
    for name, (_, default, text) in _DEADLINES.items():
        yield _option(name, float, default, text, LIMITS)


def chosen_limits(values: Mapping[str, Any]) -> Limits:
    """Return the limits that these options set; ConfigError names each option that is out of range."""
    chosen = {field.name: values[field.name] for field in fields(Limits) if field.name in values}
    _check_positive(chosen)
    return Limits(**{name: value * _MIB if name == "memory" else value for name, value in chosen.items()})


def chosen_deadlines(values: Mapping[str, Any]) -> Deadlines:
    """Return the deadlines that these options set; ConfigError as for `chosen_limits`."""
    _check_positive({name: values[name] for name in _DEADLINES})
    seconds = {round_: values[name] for name, (rounds, _, _) in _DEADLINES.items() for round_ in rounds.split()}
    return Deadlines(**seconds)


def _check_positive(values: Mapping[str, Any]) -> None:
    if wrong := {name: value for name, value in values.items() if not value > 0}:
        raise ConfigError("; ".join(f"{_dashed(name)} must be above 0, not {value}" for name, value in wrong.items()))


def _option(name: str, kind: Any, default: Any, text: str, panel: str) -> inspect.Parameter:
    # For a flag, typer makes the name and its opposite from the parameter's name.
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

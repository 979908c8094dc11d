"""`secagg serve`: the server of a training over the network."""

import logging
import re
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from typer import Option

from fl.aggregation.planning import ADVERSARIES
from fl.commands.given import configurable, given, is_set, refuse_with_resume
from fl.commands.options import (
    NOT_SETTLED,
    chosen_deadlines,
    chosen_limits,
    deadline_options,
    limit_options,
    training_options,
)
from fl.commands.output import INTERRUPTED, open_console, terminated_as_interrupted
from fl.config.run_config import SETTINGS, RunConfig
from fl.errors import ConfigError
from fl.formatting import json_line
from fl.network.addresses import parse_address
from fl.network.modes import chosen_adversary, what_it_gives_up
from secagg.graph_choice import SPARSE_RESERVE
from transport.certificates.reading import Credentials
from transport.tcp import PLAINTEXT, proxy_networks

_HOST = re.compile(r"[A-Za-z0-9_.-]+|\[[0-9A-Fa-f:.]+\]", re.ASCII)

# Options that may be given with --resume: where and how long the run is served. All others are fixed when it starts.
_RESUMABLE = NOT_SETTLED | {
    *("config", "resume", "rounds", "data_dir", "as_json", "listen", "certs", "plaintext", "directory"),
    *(
        "give_up",
        "retries",
        "watch",
        "watch_host",
        "log_json",
        "skip",
        "proxy_protocol",
        "exclude",
        "crl",
        "max_failed_rounds",
        "fronts",
        "ray",
    ),
    *("journal", "journal_run", "standby"),
}

_MOST_FRONTS = 1000

# Settings of a simulation alone: real clients drop out by themselves, have their own data and train elsewhere.
_SIMULATED = {
    *("dropout_at", "dropout_model", "aggregator", "compare"),
    *("alpha", "shards_per_client", "engine", "threads", "channels_last", "bfloat16"),
    *("personalize", "personal_epochs", "personal_learning_rate", "personal_strength"),
}
_SETTINGS = [name for name in SETTINGS if name not in _SIMULATED]

_HELP = {
    "clients": "Number of enrolled clients, whose ids are 0 to CLIENTS - 1.",
    "dataset": "Data set on which the server tests the model; it also defines the examples' shape and the classes.",
    "model": "Model to train, as in secagg train (default: small-cnn for digits, 2nn for your own data set, else cnn).",
    "partition": "How the data set is split; only recorded with the run, clients choose with secagg join --partition.",
    "sample": "Clients that take part in each round, drawn at random from the connected ones (default: all enrolled).",
    "holdout": "Fraction of their examples that clients are asked to hold out; after each round the model is measured "
    "on them, by secure sums (0: never).",
    "adversary": f"What the protocol must withstand: {', '.join(ADVERSARIES)} (default: malicious, with "
    "--plaintext honest-but-curious).",
    "dropout": "Fraction of a round's clients that may drop out, beyond those above --min-clients (on a sparse graph "
    f"at least {SPARSE_RESERVE}).",
}


def register(app: typer.Typer, reported: Callable[[bool], AbstractContextManager[None]]) -> None:
    """Add the command to ``app``; ``reported`` prints the user's mistakes as all commands do."""

    @configurable(app, training_options(_SETTINGS, _HELP, required=["clients"]), deadline_options(), limit_options())
    def serve(
        context: typer.Context,
        listen: Annotated[
            str, Option(help="HOST:PORT to listen on; without HOST: on all addresses; port 0: any free port.")
        ] = "localhost:7000",
        certs: Annotated[
            Path | None, Option(help="Folder with ca.pem, server.pem and server.key (see secagg certs).")
        ] = None,
        plaintext: Annotated[
            bool, Option("--plaintext", help="Use no TLS; for trials on one machine (loopback addresses) only.")
        ] = False,
        min_clients: Annotated[
            int | None,
            Option(help="Connected clients to wait for before a round begins (default: two thirds of all, plus one)."),
        ] = None,
        min_inputs: Annotated[
            int, Option(help="Fewest updates in a mean; as large as the clients' own --min-inputs, or they decline.")
        ] = 3,
        over_select: Annotated[
            float | None,
            Option(
                help="Ask this many times --sample clients, and finish when --sample updates have arrived (default: 1)."
            ),
        ] = None,
        exclude: Annotated[
            Path | None, Option(help="File that lists clients to refuse, one per line: id, serial:HEX or sha256:HEX.")
        ] = None,
        crl: Annotated[
            Path | None, Option(help="File with the revocation list of the authority in ca.pem, as PEM or DER.")
        ] = None,
        max_failed_rounds: Annotated[
            int | None, Option(help="Stop after this many rounds in a row without a result (default: never).")
        ] = None,
        give_up: Annotated[
            float | None, Option(help="Stop after waiting this many seconds for clients (default: never).")
        ] = None,
        retries: Annotated[int, Option(help="How often an aborted round is tried again.")] = 3,
        directory: Annotated[
            Path | None,
            Option(
                help="Malicious mode: folder with the certificates of all clients (default: the folder of --certs)."
            ),
        ] = None,
        proxy_protocol: Annotated[
            str | None,
            Option(
                metavar="ADDRESS[,ADDRESS]",
                help="Addresses or networks of proxies that send the client's address by PROXY protocol v2.",
            ),
        ] = None,
        fronts: Annotated[
            int,
            Option(
                help="Processes on Ray that have the connections with clients and add their inputs, on ports PORT, "
                "PORT + 1, ... (default: this process alone)."
            ),
        ] = 0,
        ray: Annotated[
            str | None, Option(help="With --fronts: address of the Ray cluster (default: Ray on this machine).")
        ] = None,
        data_dir: Annotated[Path | None, Option(help="Folder with the data set's files.")] = None,
        max_examples: Annotated[
            int | None,
            Option(help="Largest weight: a client with more examples counts as this many (default: adapts)."),
        ] = None,
        watch: Annotated[
            str | None,
            Option(help="HOST:PORT of a status page and metrics; it has no login: use loopback, or a proxy with one."),
        ] = None,
        watch_host: Annotated[
            str | None,
            Option(metavar="NAME[,NAME]", help="The only host names, besides localhost, that the status page accepts."),
        ] = None,
        log_json: Annotated[bool, Option("--log-json", help="Write each log line as a JSON object on stderr.")] = False,
        journal: Annotated[
            str | None,
            Option(
                metavar="URL",
                help="PostgreSQL database for the journals and the checkpoint, so that another machine can go on: a "
                "connection string without a password (default: the run's folder).",
            ),
        ] = None,
        journal_run: Annotated[
            str | None, Option(metavar="NAME", help="Name of the run in the database (default: its folder's name).")
        ] = None,
        standby: Annotated[
            bool, Option("--standby", help="With --journal: wait while another process serves the run.")
        ] = False,
        out: Annotated[
            Path | None, Option(help="New folder for the checkpoint, journal, metrics, figure and model.")
        ] = None,
        resume: Annotated[Path | None, Option(help="Continue the run in this folder.")] = None,
        skip: Annotated[
            int,
            Option(help="With --resume of an older copy: skip this many rounds, which clients have already answered."),
        ] = 0,
        as_json: Annotated[
            bool, Option("--json", help="Print one JSON object on stdout, all other output on stderr.")
        ] = False,
        **settings: Any,
    ) -> None:
        """Train a model with clients on other machines, which run `secagg join`."""
        with reported(as_json), terminated_as_interrupted():
            on_command_line = given(context)
            _check(context, on_command_line, out, resume, retries=retries, give_up=give_up, skip=skip)
            if max_examples is not None and max_examples < 1:
                raise ConfigError(f"max-examples must be at least 1, not {max_examples}")
            if settings["sample"] is None and over_select is not None:
                raise ConfigError("--over-select asks for more than a sample: give --sample")
            if settings["sample"] is not None:
                over_select = 1.0 if over_select is None else over_select
                if settings["sample"] < 2:
                    raise ConfigError(f"sample must be at least 2, not {settings['sample']}")
            if max_failed_rounds is not None and max_failed_rounds < 1:
                raise ConfigError(f"max-failed-rounds must be at least 1, not {max_failed_rounds}")
            address = parse_address(listen, listening=True)
            if (certs is None) != plaintext:
                raise ConfigError("give --certs, or --plaintext for a trial on loopback")
            try:
                proxies = proxy_networks(proxy_protocol) if proxy_protocol else ()
            except ValueError as error:
                raise ConfigError(f"--proxy-protocol: {error}") from None
            if proxies and plaintext:
                raise ConfigError("--proxy-protocol is for connections with TLS: leave out --plaintext")
            if journal is None and (standby or journal_run is not None):
                raise ConfigError("--standby and --journal-run are for a database: give --journal")
            _check_fronts(fronts, ray, address)
            deadlines, limits = chosen_deadlines(settings), chosen_limits(settings)
            watch_address = parse_address(watch, listening=True) if watch else None
            watch_hosts = tuple(name.strip() for name in watch_host.split(",")) if watch_host else ()
            if wrong := [name for name in watch_hosts if not _HOST.fullmatch(name)]:
                raise ConfigError(f"--watch-host: {wrong[0]!r} is not a host name; give names without a port")
            if watch_hosts and watch_address is None:
                raise ConfigError("--watch-host is for the status page: give --watch")
            # The imports below load torch, which takes seconds.
            from fl.config.served import ServeOptions
            from fl.network.server import resume_serving, start_serving
            from fl.watch import configure_logging

            configure_logging(json=log_json, level="INFO" if log_json else "WARNING")
            # The console also shows these events, in plain words.
            logging.getLogger("fl.events").setLevel(logging.NOTSET if log_json else logging.ERROR)

            options = ServeOptions(
                address=address,
                tls=PLAINTEXT if certs is None else Credentials.of_server(certs),
                directory=directory or certs,
                give_up=give_up,
                retries=retries,
                deadlines=deadlines,
                limits=limits,
                watch=watch_address,
                watch_hosts=watch_hosts,
                skip=skip,
                exclude=exclude,
                crl=crl,
                max_failed_rounds=max_failed_rounds,
                proxies=proxies,
                journal=journal,
                journal_run=journal_run,
                standby=standby,
                fronts=fronts,
                ray=ray,
            )
            console = open_console(stderr=as_json)
            if (named := settings["adversary"]) is not None:
                mode = chosen_adversary(named, has_certificates=certs is not None)
                if line := what_it_gives_up(mode):
                    console.print(escape(line), highlight=False, soft_wrap=True)
            if resume is not None:
                more = settings["rounds"] if is_set(context, "rounds") else None
                finished = resume_serving(resume, more, data_dir, options, console)
            else:
                assert out is not None  # noqa: S101 - checked above
                finished = start_serving(
                    _config_of(settings, over_select),
                    out,
                    data_dir,
                    options,
                    console,
                    min_clients=min_clients,
                    max_examples=max_examples,
                    min_inputs=min_inputs,
                    over_select=over_select,
                )
        if as_json:
            typer.echo(json_line(finished.summary))
        if finished.interrupted:
            sys.exit(INTERRUPTED)


def _config_of(settings: dict[str, Any], over_select: float | None) -> RunConfig:
    """Return the run's config, with the settings that depend on how it is served."""
    from fl.config.served import invited_for

    config = RunConfig.of(**{name: settings[name] for name in _SETTINGS})
    protocol = config.protocol
    if over_select is not None and protocol.value_bits is None:
        # The ring must hold the sum of all clients that are asked.
        asked = replace(protocol, sample=invited_for(config.sample, over_select, config.data.clients))
        protocol = replace(protocol, value_bits=replace(config, protocol=asked).value_bits)
    return replace(config, protocol=protocol)


def _check_fronts(fronts: int, ray: str | None, address: tuple[str, int]) -> None:
    if not 0 <= fronts <= _MOST_FRONTS:
        raise ConfigError(f"fronts must be between 0 and {_MOST_FRONTS}, not {fronts}")
    if ray is not None and not fronts:
        raise ConfigError("--ray is the cluster of the fronts: also give --fronts")
    if fronts and address[1] and address[1] + fronts - 1 > 65535:
        raise ConfigError(f"{fronts} fronts listen on as many ports from {address[1]} on, and 65535 is the last one")


def _check(
    context: typer.Context,
    on_command_line: set[str],
    out: Path | None,
    resume: Path | None,
    *,
    retries: int,
    give_up: float | None,
    skip: int,
) -> None:
    if min(retries, skip) < 0 or (give_up is not None and not 0 < give_up < float("inf")):
        raise ConfigError("retries and skip must not be negative, and give-up must be above 0 seconds")
    if skip and resume is None:
        raise ConfigError("--skip works on a run that is resumed: also give --resume, or leave out --skip")
    if resume is not None:
        refuse_with_resume(on_command_line, _RESUMABLE)
    elif out is None:
        raise ConfigError("give --out, a folder for the checkpoint that survives a crash, or --resume")
    elif not is_set(context, "clients"):
        raise ConfigError("give --clients, the number of enrolled clients")

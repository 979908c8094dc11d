"""`secagg serve`: the options of a networked training's server."""

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
from fl.network.modes import ADVERSARIES, GRAPHS, chosen_adversary, what_it_gives_up
from secagg import GraphKind
from transport.certificates.reading import Credentials
from transport.tcp import PLAINTEXT, proxy_networks

_SPARSE_DROPOUT = 0.05
_HOST = re.compile(r"[A-Za-z0-9_.-]+|\[[0-9A-Fa-f:.]+\]", re.ASCII)

# What a run is made of is settled when it starts; where and how patiently it is served is not.
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
    ),
}

# Settings of a simulation: who vanishes is seen, examples are not dealt out, and clients train where they are.
_SIMULATED = {
    *("dropout_at", "dropout_model", "holdout", "aggregator", "compare"),
    *("alpha", "shards_per_client", "engine", "threads", "channels_last", "bfloat16"),
}
_SETTINGS = [name for name in SETTINGS if name not in _SIMULATED]

_HELP = {
    "clients": "Enrolled clients: ids 0 to CLIENTS - 1.",
    "dataset": "Gives the examples' shape, the classes and the test set.",
    "model": "As in secagg train, your own included (default: by data).",
    "partition": "How clients deal the data set out; noted with the run.",
    "sample": "Ask this many of the clients that are there, drawn anew each round (default: all enrolled).",
    "dropout": "Fraction of a round's clients that may vanish, beyond those not needed (sparse graph: 0.05).",
}


def register(app: typer.Typer, reported: Callable[[bool], AbstractContextManager[None]]) -> None:
    """Add the command to ``app``; ``reported`` shows the user's mistakes the way all commands do."""

    @configurable(app, training_options(_SETTINGS, _HELP, required=["clients"]), deadline_options(), limit_options())
    def serve(
        context: typer.Context,
        listen: Annotated[str, Option(help="HOST:PORT; without HOST all addresses, port 0 any.")] = "localhost:7000",
        certs: Annotated[Path | None, Option(help="Folder with ca.pem, server.pem and server.key.")] = None,
        plaintext: Annotated[bool, Option("--plaintext", help="Without TLS: trials on loopback only.")] = False,
        min_clients: Annotated[int | None, Option(help="Clients to wait for (default: two thirds and one).")] = None,
        min_inputs: Annotated[
            int, Option(help="The fewest updates that clients agree to a mean of, by their own --min-inputs.")
        ] = 3,
        over_select: Annotated[
            float | None,
            Option(help="Ask this many times as many, and go on when --sample updates are there (default: 1)."),
        ] = None,
        graph: Annotated[str, Option(help=f"Who shares masks with whom: {GRAPHS}.")] = GraphKind.COMPLETE.value,
        threshold: Annotated[
            int | None, Option(help="Clients that recover a round's sum (default: as few as are safe).")
        ] = None,
        exclude: Annotated[
            Path | None, Option(help="Clients that are shut out: ids, serial:HEX, sha256:HEX, one a line.")
        ] = None,
        crl: Annotated[Path | None, Option(help="Revocation list of the authority in ca.pem, PEM or DER.")] = None,
        max_failed_rounds: Annotated[
            int | None, Option(help="End after this many rounds in a row without a result (default: no end).")
        ] = None,
        give_up: Annotated[
            float | None, Option(help="Seconds to wait for them before the server ends (default: no end).")
        ] = None,
        retries: Annotated[int, Option(help="How often a round that was begun and aborted is tried again.")] = 3,
        adversary: Annotated[
            str | None, Option(help=f"{ADVERSARIES} (default: malicious, and without certificates the first).")
        ] = None,
        directory: Annotated[
            Path | None, Option(help="Malicious mode: folder with everybody's certificates (default: --certs).")
        ] = None,
        proxy_protocol: Annotated[
            str | None,
            Option(
                metavar="ADDRESS[,ADDRESS]",
                help="Proxies, or their networks, that say by PROXY protocol v2 whom they pass on.",
            ),
        ] = None,
        data_dir: Annotated[Path | None, Option(help="Folder with the data set's IDX files.")] = None,
        max_examples: Annotated[
            int | None,
            Option(help="A client with more examples counts as having this many (default: follows the clients)."),
        ] = None,
        watch: Annotated[
            str | None, Option(help="HOST:PORT of a status page and metrics (loopback, unless a proxy guards it).")
        ] = None,
        watch_host: Annotated[
            str | None,
            Option(metavar="NAME[,NAME]", help="The only names, besides localhost, that the status page answers to."),
        ] = None,
        log_json: Annotated[bool, Option("--log-json", help="One JSON object a log line, on stderr.")] = False,
        out: Annotated[Path | None, Option(help="Folder for checkpoint, journal, metrics, figure and model.")] = None,
        resume: Annotated[Path | None, Option(help="Go on with the run in this folder.")] = None,
        skip: Annotated[
            int, Option(help="With --resume of an older copy: leave out so many rounds, which clients have answered.")
        ] = 0,
        as_json: Annotated[
            bool, Option("--json", help="One JSON object on stdout; everything else goes to stderr.")
        ] = False,
        **settings: Any,
    ) -> None:
        """Train a model with clients on other machines, who run `secagg join`."""
        with reported(as_json), terminated_as_interrupted():
            on_command_line = given(context)
            _check(context, on_command_line, out, resume, retries=retries, give_up=give_up, skip=skip)
            if max_examples is not None and max_examples < 1:
                raise ConfigError(f"max-examples must be at least 1, not {max_examples}")
            mode = chosen_adversary(adversary, has_certificates=certs is not None)
            if graph not in {kind.value for kind in GraphKind}:
                raise ConfigError(f"graph {graph!r} is not known here; known: {GRAPHS}")
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
            deadlines, limits = chosen_deadlines(settings), chosen_limits(settings)
            watch_address = parse_address(watch, listening=True) if watch else None
            watch_hosts = tuple(name.strip() for name in watch_host.split(",")) if watch_host else ()
            if wrong := [name for name in watch_hosts if not _HOST.fullmatch(name)]:
                raise ConfigError(f"--watch-host: {wrong[0]!r} is no host's name; give names without a port")
            if watch_hosts and watch_address is None:
                raise ConfigError("--watch-host is for the status page: give --watch")
            # Everything below waits seconds for torch.
            from fl.config.served import ServeOptions
            from fl.network.server import resume_serving, start_serving
            from fl.watch import configure_logging

            configure_logging(json=log_json, level="INFO" if log_json else "WARNING")
            # What happens in the training is on the console, too, in words for people.
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
            )
            console = open_console(stderr=as_json)
            if adversary is not None and (line := what_it_gives_up(mode)):
                console.print(escape(line), highlight=False, soft_wrap=True)
            if resume is not None:
                more = settings["rounds"] if is_set(context, "rounds") else None
                finished = resume_serving(resume, more, data_dir, options, console)
            else:
                assert out is not None  # noqa: S101 - checked above
                finished = start_serving(
                    _config_of(settings, over_select, has_dropout=is_set(context, "dropout"), graph=GraphKind(graph)),
                    out,
                    data_dir,
                    options,
                    console,
                    min_clients=min_clients,
                    adversary=mode,
                    max_examples=max_examples,
                    min_inputs=min_inputs,
                    over_select=over_select,
                    graph=GraphKind(graph),
                    threshold=threshold,
                )
        if as_json:
            typer.echo(json_line(finished.summary))
        if finished.interrupted:
            sys.exit(INTERRUPTED)


def _config_of(
    settings: dict[str, Any], over_select: float | None, *, has_dropout: bool, graph: GraphKind
) -> RunConfig:
    """The run's config, with what depends on how it is served."""
    from fl.config.served import invited_for

    config = RunConfig.of(**{name: settings[name] for name in _SETTINGS})
    protocol = config.protocol
    if graph is GraphKind.SPARSE and not has_dropout:
        # On the complete graph there is room beyond what is expected; on a sparse one there is none.
        protocol = replace(protocol, dropout=_SPARSE_DROPOUT)
    if over_select is not None and protocol.value_bits is None:
        # The ring holds the sum of all who are asked.
        asked = replace(protocol, sample=invited_for(config.sample, over_select, config.data.clients))
        protocol = replace(protocol, value_bits=replace(config, protocol=asked).value_bits)
    return replace(config, protocol=protocol)


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
        raise ConfigError("--skip leaves out rounds of a run that goes on: give --resume, too")
    if resume is not None:
        refuse_with_resume(on_command_line, _RESUMABLE)
    elif out is None:
        raise ConfigError("give --out, a folder for the checkpoint that survives a crash, or --resume")
    elif not is_set(context, "clients"):
        raise ConfigError("give --clients: how many are enrolled")

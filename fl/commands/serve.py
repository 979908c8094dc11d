"""`secagg serve`: the options of a networked training's server."""

import logging
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer
from rich.markup import escape
from typer import Option

from fl.commands import options as training_options
from fl.commands.options import DEFAULTS
from fl.commands.output import INTERRUPTED, open_console
from fl.config.run_config import RunConfig
from fl.errors import ConfigError
from fl.formatting import json_line
from fl.network.addresses import parse_address
from fl.network.modes import ADVERSARIES, GRAPHS, chosen_adversary, what_it_gives_up
from secagg import GraphKind
from transport import Deadlines
from transport.certificates.reading import Credentials
from transport.tcp import PLAINTEXT, Limits, proxy_networks

_SPARSE_DROPOUT = 0.05

# What a run is made of is settled when it starts; where and how patiently it is served is not.
_RESUMABLE = {
    *("resume", "rounds", "data_dir", "as_json", "listen", "certs", "plaintext", "directory", "proxy_protocol"),
    *("exclude", "crl", "max_failed_rounds"),
    *("give_up", "retries", "join_seconds", "reply_seconds", "training_seconds", "memory", "watch", "log_json", "skip"),
}


def register(app: typer.Typer, reported: Callable[[bool], AbstractContextManager[None]]) -> None:
    """Add the command to ``app``; ``reported`` shows the user's mistakes the way all commands do."""

    @app.command()
    def serve(
        context: typer.Context,
        listen: Annotated[str, Option(help="HOST:PORT; without HOST all addresses, port 0 any.")] = "localhost:7000",
        certs: Annotated[Path | None, Option(help="Folder with ca.pem, server.pem and server.key.")] = None,
        plaintext: Annotated[bool, Option("--plaintext", help="Without TLS: trials on loopback only.")] = False,
        clients: Annotated[int, Option(help="Enrolled clients: ids 0 to CLIENTS - 1.")] = 0,
        min_clients: Annotated[int, Option(help="Clients to wait for (default: two thirds and one).")] = 0,
        min_inputs: Annotated[
            int, Option(help="The fewest updates that clients agree to a mean of, by their own --min-inputs.")
        ] = 3,
        sample: Annotated[
            int | None,
            Option(help="Ask this many of the clients that are there, drawn anew each round (default: all enrolled)."),
        ] = None,
        over_select: Annotated[
            float, Option(help="Ask this many times as many, and go on when --sample updates are there.")
        ] = 1.0,
        graph: Annotated[str, Option(help=f"Who shares masks with whom: {GRAPHS}.")] = GraphKind.COMPLETE.value,
        threshold: Annotated[
            int | None, Option(help="Clients that recover a round's sum (default: as few as are safe).")
        ] = None,
        dropout: Annotated[
            float | None,
            Option(
                help="Fraction of a round's clients that may vanish, beyond those not needed (default: 0.05 on a "
                "sparse graph, else 0)."
            ),
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
        corrupt: training_options.Corrupt = DEFAULTS["corrupt"],
        directory: Annotated[
            Path | None, Option(help="Malicious mode: folder with everybody's certificates (default: --certs).")
        ] = None,
        join_seconds: Annotated[float, Option(help="How long a round waits for those not there yet.")] = 10.0,
        reply_seconds: Annotated[float, Option(help="How long for answers that need no training.")] = 30.0,
        training_seconds: Annotated[float, Option(help="How long for the trained updates.")] = 600.0,
        memory: Annotated[
            int, Option(help="MiB for updates that come in at once; further clients send theirs after them.")
        ] = Limits().memory >> 20,
        proxy_protocol: Annotated[
            str,
            Option(
                metavar="ADDRESS[,ADDRESS]",
                help="Proxies, or their networks, that say by PROXY protocol v2 whom they pass on.",
            ),
        ] = "",
        dataset: Annotated[str, Option(help="Gives the examples' shape, the classes and the test set.")] = DEFAULTS[
            "dataset"
        ],
        data_dir: Annotated[Path | None, Option(help="Folder with the data set's IDX files.")] = None,
        model: Annotated[str, Option(help="As in secagg train, your own included (default: suits the data set).")] = "",
        rounds: training_options.Rounds = DEFAULTS["rounds"],
        epochs: training_options.Epochs = DEFAULTS["epochs"],
        batch_size: training_options.BatchSize = DEFAULTS["batch_size"],
        learning_rate: training_options.LearningRate = DEFAULTS["learning_rate"],
        momentum: training_options.Momentum = DEFAULTS["momentum"],
        optimizer: training_options.Optimizer = DEFAULTS["optimizer"],
        weight_decay: training_options.WeightDecay = DEFAULTS["weight_decay"],
        proximal: training_options.Proximal = DEFAULTS["proximal"],
        learning_rate_decay: training_options.LearningRateDecay = DEFAULTS["learning_rate_decay"],
        server_optimizer: training_options.ServerOptimizer = DEFAULTS["server_optimizer"],
        server_learning_rate: training_options.ServerLearningRate = DEFAULTS["server_learning_rate"],
        server_momentum: training_options.ServerMomentum = DEFAULTS["server_momentum"],
        server_beta2: training_options.ServerBeta2 = DEFAULTS["server_beta2"],
        server_tau: training_options.ServerTau = DEFAULTS["server_tau"],
        partition: Annotated[str, Option(help="How clients deal the data set out; noted with the run.")] = "",
        max_examples: Annotated[
            int, Option(help="A client with more examples counts as having this many (default: follows the clients).")
        ] = 0,
        clip: training_options.Clip = DEFAULTS["clip"],
        value_bits: Annotated[int, Option(help="Bits of an element (default: at most 24, for a ring of 32).")] = 0,
        seed: training_options.Seed = DEFAULTS["seed"],
        watch: Annotated[
            str, Option(help="HOST:PORT of a status page and metrics (loopback, unless a proxy guards it).")
        ] = "",
        log_json: Annotated[bool, Option("--log-json", help="One JSON object a log line, on stderr.")] = False,
        out: Annotated[Path | None, Option(help="Folder for checkpoint, journal, metrics, figure and model.")] = None,
        resume: Annotated[Path | None, Option(help="Go on with the run in this folder.")] = None,
        skip: Annotated[
            int, Option(help="With --resume of an older copy: leave out so many rounds, which clients have answered.")
        ] = 0,
        as_json: Annotated[
            bool, Option("--json", help="One JSON object on stdout; everything else goes to stderr.")
        ] = False,
    ) -> None:
        """Train a model with clients on other machines, who run `secagg join`."""
        given = {
            name
            for name in context.params
            if (source := context.get_parameter_source(name)) is not None and source.name == "COMMANDLINE"
        }
        with reported(as_json), _terminated_as_interrupted():
            values = {name: value for name, value in context.params.items() if name in DEFAULTS}
            values["sample"] = sample or 0
            # On the complete graph there is room beyond what is expected; on a sparse one there is none.
            values["dropout"] = (_SPARSE_DROPOUT * (graph == GraphKind.SPARSE.value)) if dropout is None else dropout
            _check(given, values, out, resume, retries=retries, give_up=give_up, skip=skip)
            if memory < 1:
                raise ConfigError(f"memory must be at least 1 MiB, not {memory}")
            mode = chosen_adversary(adversary, has_certificates=certs is not None)
            if graph not in {kind.value for kind in GraphKind}:
                raise ConfigError(f"graph {graph!r} is not known here; known: {GRAPHS}")
            if sample is None and "over_select" in given:
                raise ConfigError("--over-select asks for more than a sample: give --sample")
            if sample is not None and sample < 2:
                raise ConfigError(f"sample must be at least 2, not {sample}")
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
            deadlines = _deadlines(join_seconds, reply_seconds, training_seconds)
            watch_address = parse_address(watch, listening=True) if watch else None
            # Everything below waits seconds for torch.
            from fl.config.served import ServeOptions, invited_for
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
                limits=Limits(memory=memory << 20),
                watch=watch_address,
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
                finished = resume_serving(resume, rounds if "rounds" in given else None, data_dir, options, console)
            else:
                assert out is not None  # noqa: S101 - checked above
                config = RunConfig(**values)
                if sample is not None and not value_bits:
                    # The ring holds the sum of all who are asked.
                    asked = RunConfig(**{**values, "sample": invited_for(sample, over_select, clients)})
                    config = replace(config, value_bits=asked.value_bits)
                finished = start_serving(
                    config,
                    out,
                    data_dir,
                    options,
                    console,
                    min_clients=min_clients,
                    adversary=mode,
                    max_examples=max_examples or None,
                    min_inputs=min_inputs,
                    over_select=None if sample is None else over_select,
                    graph=GraphKind(graph),
                    threshold=threshold,
                )
        if as_json:
            typer.echo(json_line(finished.summary))
        if finished.interrupted:
            sys.exit(INTERRUPTED)


def _check(
    given: set[str],
    values: dict[str, Any],
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
        if refused := sorted(given - _RESUMABLE):
            options = ", ".join("--" + name.replace("_", "-") for name in refused)
            raise ConfigError(f"--resume goes on with the run as it was started; leave out {options}")
    elif out is None:
        raise ConfigError("give --out, a folder for the checkpoint that survives a crash, or --resume")
    elif "clients" not in given:
        raise ConfigError("give --clients: how many are enrolled")
    for name in ("value_bits", "max_examples", "min_clients"):
        # They stand for "by default"; who writes 0 means 0.
        if name in given and not values.get(name, 1):
            raise ConfigError(f"{name} must be at least 1, not 0")


def _deadlines(join: float, reply: float, training: float) -> Deadlines:
    try:
        return Deadlines(
            advertise_keys=join,
            share_keys=reply,
            masked_input_collection=training,
            consistency_check=reply,
            unmasking=reply,
        )
    except ValueError as error:
        raise ConfigError(str(error)) from None


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """A service manager's request to end is like Ctrl-C: a checkpoint stays, and clients are told to come back."""

    def interrupt(_: int, __: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)

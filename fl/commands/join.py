"""`secagg join`: the options of a networked training's client."""

import asyncio
import contextlib
import logging
import signal
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from typer import Argument, Option

from fl.commands.given import configurable, given
from fl.commands.options import CLIENT_LIMITS, chosen_limits, limit_options
from fl.commands.output import INTERRUPTED, open_console, terminated_as_interrupted
from fl.errors import ConfigError
from fl.network.addresses import parse_address
from fl.network.errors import NetworkError
from fl.network.modes import ADVERSARIES, GRAPHS, chosen_adversary, what_it_gives_up
from secagg import GraphKind
from secagg.params import MAX_CLIENT_ID
from transport import TransportError
from transport.certificates.host_names import is_host
from transport.certificates.reading import Credentials
from transport.durable.frames import MAX_EXTRA_BYTES
from transport.errors import MAX_ERROR_TEXT, printable
from transport.tcp import PLAINTEXT

if TYPE_CHECKING:
    from fl.network.local_data import LocalData
    from fl.network.offers import JoinOptions

_LOG = logging.getLogger("fl.network")


def register(app: typer.Typer, reported: Callable[[bool], AbstractContextManager[None]]) -> None:
    """Add the command to ``app``; ``reported`` shows the user's mistakes the way all commands do."""

    @configurable(app, limit_options(CLIENT_LIMITS))
    def join(
        context: typer.Context,
        server: Annotated[str | None, Argument(help="HOST:PORT of the server.", show_default=False)] = None,
        client_id: Annotated[
            int | None, Option("--id", help="This client's number, the one in its certificate.")
        ] = None,
        certs: Annotated[Path | None, Option(help="Folder with ca.pem, client-<id>.pem and .key.")] = None,
        plaintext: Annotated[bool, Option("--plaintext", help="Without TLS: trials on loopback only.")] = False,
        server_name: Annotated[str | None, Option(help="Name in the server's certificate, if it is not HOST.")] = None,
        arrays: Annotated[
            Path | None, Option(help="Own examples: folder or .npz with arrays x (N, ...) and y (N,), labels from 0.")
        ] = None,
        dataset: Annotated[
            str, Option(help="Or a part of a known data set, or of one of your own: package.module:loader.")
        ] = "digits",
        model: Annotated[
            str | None, Option(help="A model of your own to agree to, package.module:factory; its code is yours, here.")
        ] = None,
        data_dir: Annotated[Path | None, Option(help="Folder with the data set's IDX files.")] = None,
        shard: Annotated[str | None, Option(help="Which part: I/N, from 0/N to N-1/N.")] = None,
        partition: Annotated[str, Option(help="How parts are dealt out.")] = "iid",
        alpha: Annotated[float, Option(help="Concentration of the dirichlet partition.")] = 0.5,
        shards_per_client: Annotated[int, Option(help="Of the shards partition.")] = 2,
        seed: Annotated[int, Option(help="Of the partition; all clients of one data set give the same.")] = 0,
        allow_one_class: Annotated[
            bool, Option("--allow-one-class", help="Take part although all own examples are of one class.")
        ] = False,
        require_adversary: Annotated[
            str | None,
            Option(help=f"The least that a session must be safe against: {ADVERSARIES} (default: malicious)."),
        ] = None,
        min_inputs: Annotated[int, Option(help="The fewest updates that a mean may be of.")] = 3,
        graph: Annotated[
            str | None,
            Option(
                help=f"The graph that a session may have: {GRAPHS}; sparse takes both (default: complete, and where "
                "you trust the server both)."
            ),
        ] = None,
        max_epochs: Annotated[int, Option(help="The most local epochs a round.")] = 100,
        max_classes: Annotated[int, Option(help="The most classes that a model may know.")] = 1000,
        max_model_bytes: Annotated[int, Option(help="The largest model to take.")] = 1 << 26,
        training: Annotated[
            str | None,
            Option(help="Your own name for the training; each of its rounds is answered once (default: default)."),
        ] = None,
        max_rounds: Annotated[int, Option(help="The most rounds to answer in this training.")] = 1000,
        max_failed_rounds: Annotated[
            int, Option(help="End after this many rounds in a row without an update to give.")
        ] = 100,
        directory: Annotated[
            Path | None, Option(help="Malicious mode: folder with everybody's certificates (default: --certs).")
        ] = None,
        state: Annotated[
            Path | None,
            Option(help="Folder for the record of answered rounds, and an encrypted journal: a crash costs no round."),
        ] = None,
        give_up: Annotated[float, Option(help="Seconds without a word from the server.")] = 300.0,
        once: Annotated[bool, Option("--once", help="One round only.")] = False,
        log_json: Annotated[
            bool, Option("--log-json", help="One JSON object a log line, on stderr, in place of the text on stdout.")
        ] = False,
        **settings: Any,
    ) -> None:
        """Take part in a training that `secagg serve` runs, with one's own examples, round after round."""
        console = open_console()
        with reported(False), terminated_as_interrupted():
            given(context)
            if server is None or client_id is None:
                raise ConfigError("give the server's HOST:PORT, and --id with this client's number")
            limits = chosen_limits(settings)
            adversary = chosen_adversary(require_adversary, has_certificates=certs is not None)
            if graph is not None and graph not in {kind.value for kind in GraphKind}:
                raise ConfigError(f"graph {graph!r} is not known here; known: {GRAPHS}")
            if not 0 <= client_id <= MAX_CLIENT_ID:
                raise ConfigError(f"id must be between 0 and {MAX_CLIENT_ID}, not {client_id}")
            address = parse_address(server)
            if server_name is not None and not is_host(server_name):
                raise ConfigError(f"server-name {server_name!r} is neither a host name nor an IP address")
            if (certs is None) != plaintext:
                raise ConfigError("give --certs, or --plaintext for a trial on loopback")
            if (arrays is None) == (shard is None):
                raise ConfigError("give --arrays with your own examples, or --shard I/N of a data set")
            least = min(max_epochs, max_classes, max_rounds, max_failed_rounds)
            if min_inputs < 2 or least < 1 or not 0 < give_up < float("inf"):
                raise ConfigError(
                    "min-inputs must be at least 2, max-epochs, max-classes, max-rounds and max-failed-rounds at least "
                    "1, give-up above 0 seconds"
                )
            if not 0 < max_model_bytes <= MAX_EXTRA_BYTES:
                raise ConfigError(f"max-model-bytes must be between 1 and {MAX_EXTRA_BYTES}, not {max_model_bytes}")
            # Everything below waits seconds for torch.
            from fl.network.local_data import load_arrays, load_shard, parse_shard
            from fl.network.offers import JoinOptions
            from fl.network.policy import Policy
            from fl.watch import configure_logging

            configure_logging(json=log_json, level="INFO" if log_json else "WARNING")

            def say(text: str) -> None:
                line = printable(text, MAX_ERROR_TEXT)
                if log_json:
                    _LOG.info("%s", line)
                else:
                    console.print(escape(line), highlight=False, soft_wrap=True)

            credentials = None if certs is None else Credentials.of_client(certs, client_id)
            options = JoinOptions(
                client_id=client_id,
                address=address,
                tls=credentials or PLAINTEXT,
                server_name=server_name,
                identity_key=None if credentials is None else credentials.key,
                directory=directory or certs,
                state=state,
                policy=Policy(
                    adversary=adversary,
                    min_inputs=min_inputs,
                    graph=None if graph is None else GraphKind(graph),
                    max_epochs=max_epochs,
                    max_classes=max_classes,
                    own_model=model or "",
                ),
                max_model_bytes=max_model_bytes,
                give_up=give_up,
                once=once,
                training=training,
                max_rounds=max_rounds,
                max_failed_rounds=max_failed_rounds,
                limits=limits,
            )
            if arrays is not None:
                data = load_arrays(arrays)
            else:
                assert shard is not None  # noqa: S101 - checked above
                data = load_shard(
                    dataset,
                    data_dir,
                    parse_shard(shard),
                    scheme=partition,
                    seed=seed,
                    alpha=alpha,
                    per_client=shards_per_client,
                )
            # What is dealt out by chance, or on purpose, may come to that.
            is_own = arrays is not None or partition == "by-owner"
            if is_own and data.is_of_one_class and not allow_one_class:
                raise ConfigError(
                    f"all {len(data.labels)} examples are of class {data.max_label}, and a model trained on them "
                    "learns to say nothing else: see to the labels, or take part all the same with --allow-one-class"
                )
            if require_adversary is not None and (line := what_it_gives_up(adversary)):
                say(line)
            interrupted = _take_part(options, data, say)
        if interrupted:
            sys.exit(INTERRUPTED)


def _take_part(options: "JoinOptions", data: "LocalData", say: Callable[[str], None]) -> bool:
    """Whether the user, or a service manager, broke it off."""
    from fl.network.client import Participant

    participant = Participant(options, data, say)

    async def run() -> None:
        # As asyncio does it for Ctrl-C: what runs ends in order, and the server sees the connection closed.
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - this is one
        # Windows has no such handlers, and ends the process.
        with contextlib.suppress(NotImplementedError):
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        await participant.run()

    # Then asyncio sets its own in its place, which lets what runs end in order.
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        asyncio.run(run())
    except (KeyboardInterrupt, asyncio.CancelledError):
        kept = "its round can be gone on with" if options.state else "its round goes on without it"
        say(f"interrupted after {participant.rounds} rounds; {kept}")
        return True
    except TransportError as error:
        raise NetworkError(str(error)) from None
    return False

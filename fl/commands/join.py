"""`secagg join`: a client of a training over the network."""

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
from fl.commands.options import (
    CLIENT_LIMITS,
    chosen_limits,
    chosen_privacy,
    client_privacy_options,
    limit_options,
    training_options,
)
from fl.commands.output import INTERRUPTED, open_console, terminated_as_interrupted
from fl.errors import ConfigError
from fl.learning.settings import Personal
from fl.network.addresses import parse_addresses
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

_SETTINGS = ("holdout", "personalize", "personal_epochs", "personal_learning_rate", "personal_strength")
_HELP = {
    "holdout": "Fraction of the examples to hold out of training and to measure models on (default: as the server "
    "asks, up to a half).",
    "personalize": "Make a model of this client's own, with --out: head, full, proximal or ditto (default: none).",
    "personal_epochs": "Passes through the examples for it; with ditto, in each round (default: as the server's).",
    "personal_learning_rate": "Learning rate of the personal model (default: the server's).",
    "personal_strength": "Pull of the personal model to the global one, with proximal and ditto (default: 0.1).",
}

_LOG = logging.getLogger("fl.network")


def register(app: typer.Typer, reported: Callable[[bool], AbstractContextManager[None]]) -> None:
    """Add the command to ``app``; ``reported`` prints the user's mistakes as all commands do."""

    @configurable(
        app,
        training_options(_SETTINGS, _HELP, required=_SETTINGS),
        client_privacy_options(),
        limit_options(CLIENT_LIMITS),
    )
    def join(
        context: typer.Context,
        server: Annotated[
            str | None,
            Argument(
                help="HOST:PORT of the server, or of each of its fronts, separated by commas.", show_default=False
            ),
        ] = None,
        client_id: Annotated[int | None, Option("--id", help="This client's id, as in its certificate.")] = None,
        certs: Annotated[
            Path | None, Option(help="Folder with ca.pem, client-<id>.pem and client-<id>.key (see secagg certs).")
        ] = None,
        plaintext: Annotated[
            bool, Option("--plaintext", help="Use no TLS; for trials on one machine (loopback addresses) only.")
        ] = False,
        server_name: Annotated[str | None, Option(help="Name in the server's certificate (default: HOST).")] = None,
        arrays: Annotated[
            Path | None,
            Option(help="Your own examples: folder or .npz file with arrays x (N, ...) and y (N,), labels from 0."),
        ] = None,
        dataset: Annotated[
            str, Option(help="With --shard: data set to take the examples from, or your own as package.module:loader.")
        ] = "digits",
        model: Annotated[
            str | None,
            Option(
                help="Your own model that the server may choose, as package.module:factory in code on this machine."
            ),
        ] = None,
        loss: Annotated[
            str,
            Option(help="Your own loss that the server may choose, as package.module:name."),
        ] = "",
        metrics: Annotated[
            list[str] | None,
            Option("--metrics", "--metric", help="Your own metric that the server may choose; repeatable."),
        ] = None,
        device: Annotated[str, Option(help="Device to train on: cpu, cuda, mps, or auto.")] = "cpu",
        data_dir: Annotated[Path | None, Option(help="Folder with the data set's files.")] = None,
        shard: Annotated[
            str | None, Option(help="Train on part I of N of the data set: I/N, from 0/N to N-1/N.")
        ] = None,
        partition: Annotated[str, Option(help="With --shard: how the data set is split, as in secagg train.")] = "iid",
        alpha: Annotated[
            float, Option(help="Concentration of the dirichlet partition; smaller values make parts differ more.")
        ] = 0.5,
        shards_per_client: Annotated[
            int, Option(help="Shards in each part of the shards partition; fewer make parts differ more.")
        ] = 2,
        seed: Annotated[int, Option(help="Random seed of the split; all clients of a data set give the same.")] = 0,
        allow_one_class: Annotated[
            bool, Option("--allow-one-class", help="Take part even if all examples have the same class.")
        ] = False,
        require_adversary: Annotated[
            str | None,
            Option(
                help=f"The weakest adversary to accept: {ADVERSARIES} (default: malicious, but with --plaintext "
                "honest-but-curious)."
            ),
        ] = None,
        min_inputs: Annotated[int, Option(help="Fewest updates in a mean; rounds with fewer are declined.")] = 3,
        accepted_graph: Annotated[
            str | None,
            Option(
                "--graph",
                help=f"Graph to accept: {GRAPHS}; sparse accepts both (default: complete in malicious and "
                "semi-malicious mode, else both).",
            ),
        ] = None,
        max_epochs: Annotated[
            int, Option(help="Most passes through the examples in a round; more are declined.")
        ] = 100,
        max_classes: Annotated[int, Option(help="Most classes of a model; more are declined.")] = 1000,
        max_model_bytes: Annotated[int, Option(help="Largest model to accept, in bytes; larger ones are declined.")] = 1
        << 26,
        training: Annotated[
            str | None,
            Option(help='Your own name for this training; each of its rounds is answered once (default: "default").'),
        ] = None,
        max_rounds: Annotated[int, Option(help="Most rounds to answer in this training.")] = 1000,
        max_failed_rounds: Annotated[
            int, Option(help="Stop after this many rounds in a row in which this client had no update.")
        ] = 100,
        directory: Annotated[
            Path | None,
            Option(
                help="Malicious mode: folder with the certificates of all clients (default: the folder of --certs)."
            ),
        ] = None,
        state: Annotated[
            Path | None,
            Option(help="Folder for the record of answered rounds and an encrypted journal: a crash loses no round."),
        ] = None,
        give_up: Annotated[
            float, Option(help="Stop after this many seconds without a message from the server.")
        ] = 300.0,
        out: Annotated[
            Path | None, Option(help="Folder for the trained model, and with --personalize this client's own.")
        ] = None,
        once: Annotated[bool, Option("--once", help="Stop after one round.")] = False,
        log_json: Annotated[
            bool,
            Option("--log-json", help="Write each log line as a JSON object on stderr, instead of text on stdout."),
        ] = False,
        **settings: Any,
    ) -> None:
        """Take part in a training of `secagg serve`, with examples that stay on this machine."""
        console = open_console()
        with reported(False), terminated_as_interrupted():
            given(context)
            if server is None or client_id is None:
                raise ConfigError("give the server's HOST:PORT, and --id with this client's id")
            limits, privacy = chosen_limits(settings), chosen_privacy(settings)
            if not 0 <= settings["assume_corrupt"] < 1:
                raise ConfigError(f"assume-corrupt must be at least 0 and below 1, not {settings['assume_corrupt']}")
            adversary = chosen_adversary(require_adversary, has_certificates=certs is not None)
            if accepted_graph is not None and accepted_graph not in {kind.value for kind in GraphKind}:
                raise ConfigError(f"unknown graph {accepted_graph!r}; known are {GRAPHS}")
            if not 0 <= client_id <= MAX_CLIENT_ID:
                raise ConfigError(f"id must be between 0 and {MAX_CLIENT_ID}, not {client_id}")
            address = parse_addresses(server)
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
            if settings["holdout"] is not None and not 0 <= settings["holdout"] < 1:
                raise ConfigError(f"holdout must be at least 0 and below 1, not {settings['holdout']}")
            if not 0 < max_model_bytes <= MAX_EXTRA_BYTES:
                raise ConfigError(f"max-model-bytes must be between 1 and {MAX_EXTRA_BYTES}, not {max_model_bytes}")
            # The imports below load torch, which takes seconds.
            from fl.learning.devices import find_device
            from fl.network.local_data import load_arrays, load_shard, parse_shard
            from fl.network.offers import JoinOptions
            from fl.network.policy import Policy
            from fl.watch import configure_logging

            configure_logging(json=log_json, level="INFO" if log_json else "WARNING")

            find_device(device)

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
                    graph=None if accepted_graph is None else GraphKind(accepted_graph),
                    max_epochs=max_epochs,
                    max_classes=max_classes,
                    own_model=model or "",
                    own_loss=loss,
                    own_metrics=tuple(metrics or ()),
                    corrupt=settings["assume_corrupt"],
                    privacy=privacy,
                ),
                max_model_bytes=max_model_bytes,
                give_up=give_up,
                once=once,
                training=training,
                max_rounds=max_rounds,
                max_failed_rounds=max_failed_rounds,
                device=device,
                limits=limits,
                holdout=settings["holdout"],
                out=out,
                personal=Personal(
                    method=settings["personalize"],
                    epochs=settings["personal_epochs"],
                    learning_rate=settings["personal_learning_rate"],
                    **{} if settings["personal_strength"] is None else {"strength": settings["personal_strength"]},
                ),
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
            # Other partitions of a data set can give a client examples of one class, by chance or by design.
            is_own = arrays is not None or partition == "by-owner"
            if is_own and data.is_of_one_class and not allow_one_class:
                raise ConfigError(
                    f"all {len(data.labels)} examples are of class {data.max_label}, and a model trained on them "
                    "always predicts that class: check the labels, or give --allow-one-class"
                )
            if require_adversary is not None and (line := what_it_gives_up(adversary)):
                say(line)
            interrupted = _take_part(options, data, say)
        if interrupted:
            sys.exit(INTERRUPTED)


def _take_part(options: "JoinOptions", data: "LocalData", say: Callable[[str], None]) -> bool:
    """Run the client; return whether the user or a service manager interrupted it."""
    from fl.network.client import Participant

    participant = Participant(options, data, say)

    async def run() -> None:
        # Like asyncio on Ctrl-C: cancel the task, so that the connection is closed properly.
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - this coroutine runs in a task
        # Windows has no such handlers; there SIGTERM ends the process.
        with contextlib.suppress(NotImplementedError):
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        await participant.run()

    # With the default handler in place, asyncio installs its own, which cancels the task.
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        asyncio.run(run())
    except (KeyboardInterrupt, asyncio.CancelledError):
        kept = "the open round can be continued" if options.state else "the open round continues without this client"
        say(f"interrupted after {participant.rounds} rounds; {kept}")
        return True
    except TransportError as error:
        raise NetworkError(str(error)) from None
    return False

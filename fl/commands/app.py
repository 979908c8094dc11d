"""The command line: options and output. The commands import the modules that do the work only when they run."""

import sys
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from typer import Option
from typer.core import TyperGroup

from fl.aggregation.planning import plan_session
from fl.commands import certs as certs_command
from fl.commands import evaluate as evaluate_command
from fl.commands import experiment as experiment_command
from fl.commands import join as join_command
from fl.commands import new as new_command
from fl.commands import options
from fl.commands import report as report_command
from fl.commands import serve as serve_command
from fl.commands import study as study_command
from fl.commands.given import configurable, given, is_set
from fl.commands.output import INTERRUPTED, open_console, reported
from fl.config.run_config import SETTINGS, RunConfig
from fl.errors import AbortedError, ConfigError
from fl.formatting import json_line
from fl.runs.plan_json import graph_of, plan_to_json
from secagg import Adversary

_ORDER = ("train", "report", "evaluate", "new", "plan", "simulate", "study", "experiment", "certs", "serve", "join")


class _InOrder(TyperGroup):
    """Lists the commands in the order in which a newcomer needs them."""

    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(self.commands, key=_ORDER.index)


app = typer.Typer(
    name="secagg",
    cls=_InOrder,
    help="Secure aggregation for federated learning: the server learns only the sum of the clients' updates.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

_DROPOUT = "Expected fraction of the clients that drop out"

_PRIVATE = "Noise then replaces --value-bits and --max-weight."

JsonOption = Annotated[bool, Option("--json", help="Print one JSON object on stdout, all other output on stderr.")]


certs_command.register(app, reported)
evaluate_command.register(app, reported)
report_command.register(app, reported)
experiment_command.register(app, reported)
study_command.register(app, reported)
serve_command.register(app, reported)
join_command.register(app, reported)
new_command.register(app, reported)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"secagg {installed_version('secagg-fl')}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


@app.command()
def plan(
    clients: Annotated[int, Option(help="Number of clients in a session.")],
    dropout: Annotated[float, Option(help=f"{_DROPOUT}.")] = 0.0,
    corrupt: Annotated[float, Option(help=options.help_of("corrupt"))] = 0.0,
    adversary: Annotated[str, Option(help=options.help_of("adversary"))] = Adversary.HONEST_BUT_CURIOUS.value,
    graph: Annotated[str, Option(help=options.help_of("graph"))] = "auto",
    length: Annotated[int, Option(help="Number of elements in each client's vector.")] = 100_000,
    value_bits: Annotated[int, Option(help="Bits per element of a vector.")] = 16,
    max_weight: Annotated[int, Option(help="Largest integer weight of a client; its vector is multiplied by it.")] = 1,
    threshold: Annotated[int | None, Option(help=options.help_of("threshold"))] = None,
    epsilon: Annotated[float | None, Option(help=f"Differential privacy of all rounds together. {_PRIVATE}")] = None,
    delta: Annotated[
        float | None, Option(help="With --epsilon: its delta, at most 1 over the number of users.")
    ] = None,
    rounds: Annotated[int | None, Option(help="With --epsilon: number of rounds.")] = None,
    sampling_rate: Annotated[
        float | None, Option(help="With --epsilon: probability that a client takes part in a round (default: 1).")
    ] = None,
    clip: Annotated[
        float | None, Option(help="With --epsilon: L2 norm to which updates are scaled down (default: 1).")
    ] = None,
    ring_bits: Annotated[
        int | None, Option(help="With --epsilon: bits of an element (default: the fewest that cost 1% of accuracy).")
    ] = None,
    noise: Annotated[str | None, Option(help="With --epsilon: skellam (default) or gaussian.")] = None,
    exact_noise: Annotated[
        bool, Option("--exact-noise", help="With --epsilon: take off the noise that a sum does not need.")
    ] = False,
    figures: Annotated[
        int | None, Option(help="With --epsilon: figures behind each update, such as loss and accuracy (default: 0).")
    ] = None,
    scores: Annotated[
        int | None,
        Option(
            help="With --epsilon: figures of held-out examples after each round, with the bit that a client has some "
            "(default: 0)."
        ),
    ] = None,
    figures_cost: Annotated[
        float | None, Option(help="With --epsilon: noise that they add to updates, as a fraction (default: 0.01).")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Choose safe protocol parameters for a threat model, and explain them; list every reason if there are none."""
    from fl.commands.private_plan import make_private_plan, print_private_plan, private_plan_to_json

    private = {"delta": delta, "rounds": rounds, "sampling_rate": sampling_rate, "clip": clip, "ring_bits": ring_bits,
               "noise": noise, "exact_noise": exact_noise or None, "figures": figures, "scores": scores,
               "figures_cost": figures_cost}  # fmt: skip
    if epsilon is not None:
        with reported(as_json):
            private["exact"] = private.pop("exact_noise")
            planned = make_private_plan(
                {**private, "epsilon": epsilon},
                num_clients=clients,
                length=length,
                dropout=dropout,
                corrupt=corrupt,
                adversary=adversary,
                graph=graph,
                threshold=threshold,
            )
        if as_json:
            typer.echo(json_line(private_plan_to_json(planned)))
        else:
            print_private_plan(planned, open_console())
        return
    with reported(as_json):
        if lonely := [name for name, value in private.items() if value is not None]:
            raise ConfigError(f"{', '.join(f'--{name}'.replace('_', '-') for name in lonely)}: only with --epsilon")
        chosen = plan_session(
            num_clients=clients,
            vector_length=length,
            value_bits=value_bits,
            max_weight=max_weight,
            dropout=dropout,
            corrupt=corrupt,
            threshold=threshold,
            adversary=adversary,
            graph=graph,
        )
    if as_json:
        typer.echo(json_line(plan_to_json(chosen)))
        return
    params = chosen.parameters
    table = Table(title=f"plan for {params.num_clients} clients", show_header=False)
    table.add_row("graph", graph_of(params).value)
    for name in ("threshold", "degree", "ring_bits", "value_bits", "vector_length"):
        table.add_row(name.replace("_", " "), f"{getattr(params, name):,}")
    console = open_console()
    console.print(table)
    for reason in chosen.reasons:
        console.print(f"- {reason}", highlight=False, soft_wrap=True)


@app.command()
def simulate(
    clients: Annotated[list[str], Option(help="Number of clients in a session.")] = ["100"],  # noqa: B006 - for typer
    length: Annotated[list[str], Option(help="Number of elements in each client's vector.")] = ["100000"],  # noqa: B006
    bits: Annotated[list[str], Option("--bits", "--value-bits", help="Bits per element of a vector.")] = ["16"],  # noqa: B006
    dropout: Annotated[
        list[str] | None,
        Option(
            help=f"{_DROPOUT}, over all rounds, or in one: masked-input-collection=0.3; repeatable (default: none)."
        ),
    ] = None,
    corrupt: Annotated[list[str], Option(help=options.help_of("corrupt"))] = ["0"],  # noqa: B006
    adversary: Annotated[list[str], Option(help=options.help_of("adversary"))] = [  # noqa: B006
        Adversary.HONEST_BUT_CURIOUS.value
    ],
    graph: Annotated[list[str], Option(help=options.help_of("graph"))] = ["auto"],  # noqa: B006
    threshold: Annotated[list[str] | None, Option(help=options.help_of("threshold"))] = None,
    workers: Annotated[int | None, Option(help="CPU cores for the clients and the server (default: all).")] = None,
    seed: Annotated[int, Option(help="Random seed of inputs and dropouts (keys and masks are never seeded).")] = 0,
    repeat: Annotated[int, Option(help="Sessions of each cell, with seeds one after the other.")] = 1,
    skip_impossible: Annotated[
        bool, Option("--skip-impossible", help="Leave out combinations that are refused.")
    ] = False,
    csv: Annotated[Path | None, Option(help="File for a table with a row for each session.")] = None,
    latex: Annotated[Path | None, Option(help="File for the printed table, for LaTeX with booktabs.")] = None,
    figure: Annotated[Path | None, Option(help="File for a figure: .png, .pdf or .svg.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Run sessions of the protocol on made-up inputs; print their costs and check that the sums are exact.

    Options with numbers or names take lists (--clients 100,300 --graph complete,sparse): every combination is run.
    """
    with reported(as_json):
        from fl.commands.simulate import SimulationRequest, parse_axes, run_simulations

        request = SimulationRequest(
            axes=parse_axes(
                clients=clients,
                length=length,
                bits=bits,
                dropout=dropout or [],
                corrupt=corrupt,
                adversary=adversary,
                graph=graph,
                threshold=threshold,
            ),
            seed=seed,
            workers=workers,
            repeat=repeat,
            skip_impossible=skip_impossible,
            csv=csv,
            latex=latex,
            figure=figure,
        )
        finished = run_simulations(request, plan_session, open_console(stderr=as_json))
    if as_json:
        typer.echo(json_line(finished.as_object))
    if finished.interrupted:
        sys.exit(INTERRUPTED)
    with reported(False):
        if finished.failure:
            raise AbortedError(finished.failure)


@configurable(app, options.training_options())
def train(
    context: typer.Context,
    data_dir: Annotated[Path | None, Option(help="Folder with the data set's files.")] = None,
    allow_one_class: Annotated[
        bool, Option("--allow-one-class", help="Train even if all examples of an owner have the same class.")
    ] = False,
    workers: Annotated[
        int | None,
        Option(help="CPU cores for the protocol, and for training by --engine processes or ray (default: all)."),
    ] = None,
    address: Annotated[
        str | None,
        Option(help="With --engine ray: auto, HOST:6379 or ray://HOST:10001 (default: Ray on this machine)."),
    ] = None,
    device: Annotated[
        str,
        Option(help="Device of clients' training, with --engine serial or processes: cpu, cuda, mps, or auto."),
    ] = "cpu",
    out: Annotated[
        Path | None, Option(help="New folder for the checkpoint, metrics, figure and model (default: nothing is kept).")
    ] = None,
    resume: Annotated[Path | None, Option(help="Continue the run in this folder.")] = None,
    tensorboard: Annotated[
        bool, Option("--tensorboard", help="Also write event files for TensorBoard into the run's folder.")
    ] = False,
    as_json: JsonOption = False,
    **settings: Any,
) -> None:
    """Train a model by federated averaging on this machine, with simulated clients."""
    with reported(as_json):
        on_command_line = given(context)
        from fl.commands.train import resume_training, start_training
        from fl.engines import Resources

        console = open_console(stderr=as_json)
        resources = Resources(workers, address, device)
        if resume is not None:
            more = settings["rounds"] if is_set(context, "rounds") else None
            finished = resume_training(
                resume, on_command_line, more, data_dir, console, tensorboard=tensorboard, resources=resources
            )
        else:
            finished = start_training(
                RunConfig.of(**{name: value for name, value in settings.items() if name in SETTINGS}),
                out,
                data_dir,
                console,
                allow_one_class=allow_one_class,
                tensorboard=tensorboard,
                resources=resources,
            )
    if as_json:
        typer.echo(json_line(finished.summary))
    if finished.interrupted:
        sys.exit(INTERRUPTED)

"""The command line: options and output. What the commands do is in the modules that they import when they run."""

import sys
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from typer import Option

import secagg
from fl.commands import certs as certs_command
from fl.commands import evaluate as evaluate_command
from fl.commands import experiment as experiment_command
from fl.commands import join as join_command
from fl.commands import new as new_command
from fl.commands import options
from fl.commands import report as report_command
from fl.commands import serve as serve_command
from fl.commands.options import DEFAULTS
from fl.commands.output import INTERRUPTED, open_console, reported
from fl.config.config_file import read_config_file
from fl.config.run_config import DROPOUT_POINTS, ENGINES, RunConfig
from fl.errors import ConfigError
from fl.formatting import json_line
from fl.runs.plan_json import plan_to_json
from secagg import Adversary, GraphKind, PlanError

app = typer.Typer(
    name="secagg",
    help="Secure aggregation for federated learning: the server learns the sum of the clients' updates, nothing else.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

_ADVERSARIES = " or ".join(adversary.value for adversary in Adversary) + "."
_GRAPHS = "complete, or sparse: each client shares masks with a few others."

JsonOption = Annotated[bool, Option("--json", help="One JSON object on stdout; everything else goes to stderr.")]


certs_command.register(app, reported)
evaluate_command.register(app, reported)
report_command.register(app, reported)
experiment_command.register(app, reported)
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
    clients: Annotated[int, Option(help="Clients that take part in a session.")],
    dropout: Annotated[float, Option(help="Fraction of them expected to vanish.")] = 0.0,
    corrupt: Annotated[float, Option(help="Fraction that may work together with the server.")] = 0.0,
    adversary: Annotated[str, Option(help=_ADVERSARIES)] = Adversary.HONEST_BUT_CURIOUS.value,
    graph: Annotated[str, Option(help=_GRAPHS)] = GraphKind.COMPLETE.value,
    length: Annotated[int, Option(help="Elements of each vector.")] = 100_000,
    value_bits: Annotated[int, Option(help="Bits of an element.")] = 16,
    max_weight: Annotated[int, Option(help="The largest integer weight that elements are multiplied by.")] = 1,
    threshold: Annotated[int | None, Option(help="A larger threshold than the smallest safe one.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Print the parameters for a threat model and why, or every reason why there are none."""
    with reported(as_json):
        chosen = _plan(
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
    for name in ("threshold", "degree", "ring_bits", "value_bits", "vector_length"):
        table.add_row(name.replace("_", " "), f"{getattr(params, name):,}")
    console = open_console()
    console.print(table)
    for reason in chosen.reasons:
        console.print(f"- {reason}", highlight=False, soft_wrap=True)


def _plan(*, adversary: str, graph: str, **numbers: Any) -> secagg.Plan:
    """The plan; names that are not known are reported together with the numbers that do not work."""
    reasons = []
    choices: dict[str, Any] = {}
    for name, value, kind in (("adversary", adversary, Adversary), ("graph", graph, GraphKind)):
        known = {member.value: member for member in kind}
        choices[name] = known.get(value, next(iter(kind)))
        if value not in known:
            reasons.append(f"{name} {value!r} is not known here; known: {', '.join(known)}")
    try:
        chosen = secagg.plan(**numbers, **choices)
    except PlanError as error:
        raise PlanError((*reasons, *error.reasons)) from None
    if reasons:
        raise PlanError(tuple(reasons))
    return chosen


@app.command()
def simulate(
    clients: Annotated[int, Option(help="Clients that take part.")] = 100,
    length: Annotated[int, Option(help="Elements of each vector.")] = 100_000,
    bits: Annotated[int, Option("--bits", "--value-bits", help="Bits of an element.")] = 16,
    dropout: Annotated[
        list[str] | None,
        Option(
            help="Fraction that vanishes, over all rounds, or in one: masked-input-collection=0.3; may be repeated."
        ),
    ] = None,
    corrupt: Annotated[float, Option(help="Fraction that may work together with the server.")] = 0.0,
    adversary: Annotated[str, Option(help=_ADVERSARIES)] = Adversary.HONEST_BUT_CURIOUS.value,
    graph: Annotated[str, Option(help=_GRAPHS)] = GraphKind.COMPLETE.value,
    workers: Annotated[int, Option(help="Cores for the recovery of the masks (default: all).")] = 0,
    seed: Annotated[int, Option(help="Of inputs and dropouts; never of keys and masks.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Run one session of the protocol on made-up inputs: what it costs, and that the sum is exact."""
    with reported(as_json):
        from fl.commands.simulate import parse_dropouts, raise_if_failed, run_simulation

        if seed < 0 or workers < 0:
            raise ConfigError("seed and workers must not be negative")
        dropouts = parse_dropouts(dropout or [])
        chosen = _plan(
            num_clients=clients,
            vector_length=length,
            value_bits=bits,
            dropout=sum(dropouts.values()),
            corrupt=corrupt,
            adversary=adversary,
            graph=graph,
        )
        result, as_object = run_simulation(
            chosen, dropouts, seed=seed, workers=workers, console=open_console(stderr=as_json)
        )
    if as_json:
        typer.echo(json_line(as_object))
    with reported(False):
        raise_if_failed(result)


@app.command()
def train(
    context: typer.Context,
    config: Annotated[
        Path | None, Option(help="TOML file with these settings; what is given here comes first.")
    ] = None,
    dataset: Annotated[
        str,
        Option(help="digits, fashion-mnist, mnist, mnist-writers, leaf-femnist, or your own: package.module:loader."),
    ] = DEFAULTS["dataset"],
    data_dir: Annotated[Path | None, Option(help="Folder with the data set's files.")] = None,
    model: Annotated[
        str,
        Option(
            help="2nn, cnn, cnn3, cnn3-mirror, small-cnn, small-cnn-square, logistic, mlp-500, mlp-500-square, or "
            "your own: package.module:factory (default: by data)."
        ),
    ] = "",
    clients: Annotated[int, Option(help="Clients that the training data is dealt out to.")] = DEFAULTS["clients"],
    sample: Annotated[int | None, Option(help="Clients that take part in a round (default: all).")] = None,
    rounds: options.Rounds = DEFAULTS["rounds"],
    epochs: options.Epochs = DEFAULTS["epochs"],
    batch_size: options.BatchSize = DEFAULTS["batch_size"],
    learning_rate: options.LearningRate = DEFAULTS["learning_rate"],
    momentum: options.Momentum = DEFAULTS["momentum"],
    optimizer: options.Optimizer = DEFAULTS["optimizer"],
    weight_decay: options.WeightDecay = DEFAULTS["weight_decay"],
    proximal: options.Proximal = DEFAULTS["proximal"],
    learning_rate_decay: options.LearningRateDecay = DEFAULTS["learning_rate_decay"],
    server_optimizer: options.ServerOptimizer = DEFAULTS["server_optimizer"],
    server_learning_rate: options.ServerLearningRate = DEFAULTS["server_learning_rate"],
    server_momentum: options.ServerMomentum = DEFAULTS["server_momentum"],
    server_beta2: options.ServerBeta2 = DEFAULTS["server_beta2"],
    server_tau: options.ServerTau = DEFAULTS["server_tau"],
    partition: Annotated[
        str,
        Option(
            help="iid, shards, dirichlet, by-writer or by-owner (default: by-writer for mnist-writers and "
            "leaf-femnist, else iid, for your own data set as well)."
        ),
    ] = "",
    alpha: Annotated[float, Option(help="Concentration of the dirichlet partition.")] = DEFAULTS["alpha"],
    shards_per_client: Annotated[int, Option(help="Of the shards partition.")] = DEFAULTS["shards_per_client"],
    allow_one_class: Annotated[
        bool, Option("--allow-one-class", help="Train although an owner's examples are all of one class.")
    ] = False,
    dropout: Annotated[float, Option(help="Fraction of the sampled clients that vanish.")] = DEFAULTS["dropout"],
    dropout_at: Annotated[
        list[str] | None,
        Option(help=f"Where they vanish: {', '.join(DROPOUT_POINTS)}; may be repeated (default: any)."),
    ] = None,
    dropout_model: Annotated[
        str, Option(help="independent, or slow: slow clients vanish more often, the same ones each time.")
    ] = DEFAULTS["dropout_model"],
    holdout: Annotated[
        float, Option(help="Fraction of each client's examples to measure the model on, by secure aggregation.")
    ] = DEFAULTS["holdout"],
    corrupt: options.Corrupt = DEFAULTS["corrupt"],
    aggregator: Annotated[str, Option(help="secure or plain.")] = DEFAULTS["aggregator"],
    compare: Annotated[
        bool, Option("--compare/--no-compare", help="Run the plain aggregator too, and compare the sums.")
    ] = False,
    clip: options.Clip = DEFAULTS["clip"],
    value_bits: Annotated[
        int | None, Option(help="Bits that an element is rounded to (default: at most 24, for a ring of 32).")
    ] = None,
    seed: options.Seed = DEFAULTS["seed"],
    engine: Annotated[str, Option(help="Where clients train: " + ", ".join(ENGINES) + ".")] = DEFAULTS["engine"],
    threads: Annotated[int, Option(help="Of torch, for a client (default: by engine and model).")] = DEFAULTS[
        "threads"
    ],
    workers: Annotated[int, Option(help="Clients trained at once by processes or ray (default: one a core).")] = 0,
    address: Annotated[str, Option(help="Ray cluster: auto, HOST:6379 or ray://HOST:10001 (default: Ray here).")] = "",
    channels_last: Annotated[bool, Option(help="Convolutions in the fast memory layout.")] = True,
    bfloat16: Annotated[str, Option(help="auto, on or off: local training in bfloat16.")] = DEFAULTS["bfloat16"],
    out: Annotated[Path | None, Option(help="Folder for checkpoint, metrics, figure and model.")] = None,
    resume: Annotated[Path | None, Option(help="Go on with the run in this folder.")] = None,
    tensorboard: Annotated[
        bool, Option("--tensorboard", help="Write event files for TensorBoard into the run's folder.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Train a model on the clients' data by federated averaging."""
    values = {name: value for name, value in context.params.items() if name in DEFAULTS and value is not None}
    values["dropout_at"] = tuple(dropout_at or ("any",))
    given = [
        name
        for name in context.params
        if (source := context.get_parameter_source(name)) is not None and source.name == "COMMANDLINE"
    ]
    with reported(as_json):
        # In a config these stand for "by default"; who writes 0 means 0.
        for name in ("sample", "value_bits"):
            if values.get(name) == 0:
                raise ConfigError(f"{name} must be at least 1, not 0")
        if config is not None:
            written = read_config_file(config)
            values = {**values, **{name: value for name, value in written.items() if name not in given}}
        from fl.commands.train import resume_training, start_training
        from fl.engines import Resources

        console = open_console(stderr=as_json)
        resources = Resources(workers, address)
        if resume is not None:
            more = rounds if "rounds" in given else None
            finished = resume_training(
                resume, given, more, data_dir, console, tensorboard=tensorboard, resources=resources
            )
        else:
            finished = start_training(
                RunConfig(**values),
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

"""The display of a run: progress bars, one line per round, and a table at the end."""

from importlib.util import find_spec
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from fl.config.run_config import RunConfig
from fl.data import Dataset
from fl.engines.local_worker import LocalWorker
from fl.formatting import format_bytes, listed, percent
from fl.learning.own_code import is_reference, shown_name
from fl.privacy.figures import WITHIN_CLIP
from fl.runs.plan_json import graph_of
from fl.runs.records import RoundRecord, main_figures, noisy_figures, show_figure
from fl.runs.resolution import resolution_warnings
from secagg import Plan, Round
from transport.errors import printable


class TrainingDisplay:
    """Progress bars for the rounds and for the clients of the current round, below one line per completed round."""

    def __init__(self, console: Console, config: RunConfig) -> None:
        self._console = console
        self._config = config
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", justify="left"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            # In a file or a pipe, bars are not readable; it gets only the lines.
            disable=not (console.is_terminal or console.is_jupyter),
        )
        self._rounds = self._progress.add_task("rounds", total=config.rounds, note="")
        self._clients = self._progress.add_task("clients", total=config.sample, note="")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def introduce(self, num_parameters: int, plan: Plan | None, worker: LocalWorker | None = None) -> None:
        """Describe the run that begins; without a worker, the clients are on other machines."""
        config = self._config
        # The data of clients on other machines is not known here.
        dealt_out = "" if worker is None else f" ({config.partition})"
        self._console.print(
            f"[bold]{escape(shown_name(config.data.dataset))}[/bold], {escape(shown_name(config.model))} with "
            f"{num_parameters:,} parameters; "
            f"{config.data.clients} clients{dealt_out}, {config.sample} a round"
            + (f", of which {percent(config.protocol.dropout)} vanish" if config.protocol.dropout else ""),
            soft_wrap=True,
        )
        if plan is not None:
            params = plan.parameters
            among = f"{params.num_clients}" if params.is_complete else f"a client's {params.degree} neighbours"
            more = "" if plan.spare_clients is None else f", and {plan.spare_clients} more"
            self._console.print(
                f"secure aggregation, {params.adversary.value} server, {graph_of(params).value} graph: "
                f"threshold {params.threshold} of {among}, values of "
                f"{params.value_bits} bits in a ring of {params.ring_bits}; "
                f"{plan.expected_dropouts} may vanish a round as expected{more}",
                soft_wrap=True,
            )
            if config.privacy.epsilon is not None:
                self._console.print(*plan.reasons[3:], sep="\n", highlight=False, soft_wrap=True, markup=False)
            if plan.why is not None:
                self._console.print(escape(plan.why), highlight=False, soft_wrap=True)
        if worker is None:
            return
        if _deals_out_owned(config, worker.data.dataset):
            self._console.print(
                "[yellow]the data set names the owner of each example, but each client gets examples of all owners: "
                "--partition by-owner makes each owner a client[/yellow]",
                highlight=False,
                soft_wrap=True,
            )
        if few := worker.of_one_class:
            self._console.print(
                f"[yellow]{len(few)} of {config.data.clients} clients have examples of one class only ({listed(few)}): "
                "their updates pull towards it[/yellow]",
                highlight=False,
                soft_wrap=True,
            )

    def round_started(self, rounds_done: int) -> None:
        """Reset the clients' bar."""
        self._progress.update(self._rounds, completed=rounds_done)
        self._progress.update(self._clients, completed=0, note="")

    def on_progress(self, aggregator: str, round_: Round, answered: int, awaited: int) -> None:
        """Move the clients' bar."""
        self._progress.update(
            self._clients, completed=answered, total=max(awaited, 1), note=f"{aggregator}: {round_.value}"
        )

    def round_done(self, records: list[RoundRecord]) -> None:
        """Print the round's line, and keep the newest figures beside the bar."""
        own, *others = records
        width = len(str(self._config.rounds))
        survivors = f"{len(own.included):>{len(str(own.sampled))}} of {own.sampled} in the sum"
        down = own.bytes_down + own.model_bytes
        figures = main_figures(own)
        first = next(iter(figures))
        score = ", ".join(f"{name} {show_figure(name, value)}" for name, value in figures.items())
        live = f"{escape(score)}, {survivors}, {format_bytes(own.bytes_up + down)}, {own.seconds:.1f} s"
        self._progress.update(self._rounds, completed=own.round, note=live)
        parts = [
            f"round {own.round:>{width}}/{self._config.rounds}",
            *(f"{escape(name)} [bold]{show_figure(name, value)}[/bold]" for name, value in figures.items()),
            *(f"{other.aggregator} {show_figure(first, main_figures(other).get(first))}" for other in others),
            survivors,
            f"up {format_bytes(own.bytes_up)}",
            f"down {format_bytes(down)}",
            f"{own.seconds:.1f} s",
        ]
        if own.clipped is not None and own.clipped >= 0.00005:
            parts.append(f"{percent(own.clipped)} clipped")
        if own.epsilon is not None:
            parts.append(f"epsilon {own.epsilon:.4g}")
        self._console.print("  ".join(parts), highlight=False, soft_wrap=True)
        for line in resolution_warnings(own, has_fixed_clip=self._config.protocol.clip is not None):
            self._console.print(f"  [yellow]{escape(printable(line))}[/yellow]", highlight=False, soft_wrap=True)
        for client_id, why in own.refused.items():
            self._console.print(
                f"  [yellow]client {client_id} sent nothing: {escape(printable(why))}[/yellow]",
                highlight=False,
                soft_wrap=True,
            )
        if own.stddevs:
            self._noisy(own)
        elif own.held_out_loss is not None:
            held_out = {**own.held_out_metrics, "loss": own.held_out_loss}
            said = ", ".join(
                f"{escape(name)} {f'{value:.4f}' if name == 'loss' else show_figure(name, value)}"
                for name, value in held_out.items()
            )
            self._console.print(
                f"  [dim]on {own.held_out_examples:,} examples that the clients hold out: {said}[/dim]",
                highlight=False,
                soft_wrap=True,
            )
        if own.held_out_aborted:
            self._console.print(
                f"  [yellow]no result on held-out examples: {escape(printable(own.held_out_aborted))}[/yellow]",
                highlight=False,
                soft_wrap=True,
            )
        if own.aborted:
            self._console.print(
                f"  [red]the model stays as it was: {escape(printable(own.aborted))}[/red]",
                highlight=False,
                soft_wrap=True,
            )
        elif own.dropped:
            where = ", ".join(f"{own.dropped[r.value]} in {r.value}" for r in Round if r.value in own.dropped)
            self._console.print(f"  [dim]vanished: {where}[/dim]", highlight=False, soft_wrap=True)

    def _noisy(self, own: RoundRecord) -> None:
        """Print the clients' figures of a private round; behind each the standard deviation of its noise."""
        training, held_out = noisy_figures(own)
        within = training.pop(WITHIN_CLIP, None)
        for where, figures in (("clients' training", training), ("held-out examples", held_out)):
            said = ", ".join(f"{escape(name)} {value}" for name, value in figures.items())
            if figures is training and within is not None:
                said += f"{', ' if said else ''}{within} within the clip of {own.l2_clip:.4g}"
            if said:
                self._console.print(f"  [dim]{where}: {said}[/dim]", highlight=False, soft_wrap=True)


def summary_table(summary: dict[str, Any]) -> Table:
    """Return the table at the end, with one column per aggregator."""
    compared = "plain_accuracy" in summary
    rounds = f"{summary['rounds']} round{'' if summary['rounds'] == 1 else 's'}"
    table = Table(title=escape(f"{summary['dataset']}, {summary['model']}: {rounds}"))
    table.add_column("")
    table.add_column(summary["aggregator"], justify="right")
    if compared:
        table.add_column("plain", justify="right")

    def row(label: str, own: str, plain: str = "") -> None:
        table.add_row(label, own, *([plain] if compared else []))

    plain = summary.get("plain_figures", {})
    for name, value in summary["figures"].items():
        label = name if name.startswith("training ") else f"test {name}"
        row(escape(label), show_figure(name, value), show_figure(name, plain.get(name)))
    counts = summary["included"]
    plain_counts = summary.get("plain_included", [])
    row("clients in the sum, by round", _span(counts), _span(plain_counts))
    row("aborted rounds", str(len(summary["aborted"])))
    if summary["epsilon"] is not None:
        row(f"epsilon, at delta {summary['delta']:g}", f"{summary['epsilon']:.4g}")
    for name, label in (("bytes_up", "sent by all clients"), ("bytes_down", "received by all clients")):
        row(label, format_bytes(summary[name]), format_bytes(summary.get(f"plain_{name}", 0)))
    row("seconds", f"{summary['seconds']:.1f}", f"{summary.get('plain_seconds', 0):.1f}")
    row("largest clipped share of a round", "-" if summary["clipped"] is None else percent(summary["clipped"]), "-")
    row("largest rounding noise of a round", "-" if summary["noise"] is None else percent(summary["noise"]), "-")
    if compared:
        row("secure sum less plain sum, in the ring", str(summary["ring_difference"]))
        total, plain = (summary[f"{prefix}bytes_up"] + summary[f"{prefix}bytes_down"] for prefix in ("", "plain_"))
        own_bytes = total - summary.get("model_bytes", 0)
        plain_bytes = plain - summary.get("plain_model_bytes", 0)
        row("bytes without the model's download", format_bytes(own_bytes), format_bytes(plain_bytes))
        more = "more" if total >= plain else "less"
        row("bytes over plain", f"{format_bytes(abs(total - plain))} {more} ({total / plain:.2f} times)")
        if summary["ring_difference"] == 0:
            table.caption_justify = "left"
            table.caption = (
                "Both sums of the same rounded updates were equal in each round. The plain run does not round its "
                "own: training amplifies the smallest difference, so the two models may differ a little."
            )
    return table


def open_display(*, quiet: bool) -> Console:
    """Return a console for a program: stderr, or the output of a notebook's cell, with bars if it has widgets."""
    console = Console(stderr=True, emoji=False, quiet=quiet)
    if console.is_jupyter and find_spec("ipywidgets") is None:
        return Console(emoji=False, quiet=quiet, force_jupyter=False, force_terminal=False)
    return console


def _deals_out_owned(config: RunConfig, dataset: Dataset) -> bool:
    """Return whether the partition ignores the owners that the user's own data set names."""
    is_by_owner = config.partition in ("by-owner", "by-writer")
    return is_reference(config.data.dataset) and dataset.train_writers is not None and not is_by_owner


def _span(counts: list[int]) -> str:
    if not counts:
        return "-"
    return str(counts[0]) if len(set(counts)) == 1 else f"{min(counts)} to {max(counts)}"

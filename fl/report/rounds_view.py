"""Make the page's charts and tables of the rounds: learning, clients, time and bytes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fl.config.run_config import CROSS_ENTROPY
from fl.formatting import percent
from fl.report.charts import Chart, Curve, Layer, bars_chart, curves_chart
from fl.report.source import StoredRun
from fl.runs.records import RoundRecord, show_figure
from secagg import Round

# Of metrics beside accuracy, which a figure each shows.
_MOST_METRICS = 8

_WHERE = {
    Round.ADVERTISE_KEYS: "vanished before keys",
    Round.SHARE_KEYS: "vanished before shares",
    Round.MASKED_INPUT_COLLECTION: "vanished before masked input",
    Round.CONSISTENCY_CHECK: "in the sum, vanished before the consistency check",
    Round.UNMASKING: "in the sum, vanished before unmasking",
}


def seconds(value: float) -> str:
    """Return a duration with three figures, in the unit that suits."""
    if value < 0.0009995:
        return f"{value * 1e6:.0f} µs"
    if value < 0.9995:
        return f"{value * 1e3:.3g} ms"
    return f"{value:.3g} s" if value < 600 else f"{value / 60:.1f} min"


def learning_charts(run: StoredRun) -> list[Chart]:
    """Draw the figures on the test set: the run's own, its plain twin's, and other curves to compare with."""

    def curves(name: str) -> list[Curve]:
        found = [_curve(run.config.protocol.aggregator, run.own, name)]
        if run.plain:
            found.append(_curve("plain", run.plain, name, "the same clients, not encrypted"))
        for series in run.series if name in ("accuracy", "loss") else ():
            points = tuple((point.round, getattr(point, name)) for point in series.points)
            found.append(Curve(series.name, points, series.note))
        return found

    return _charts(run, "on the test set", curves)


def client_charts(run: StoredRun) -> list[Chart]:
    """Draw the model on the clients' own examples, those they learn from and those they hold out: secure totals."""

    def curves(name: str) -> list[Curve]:
        noise = run.own[-1].stddevs
        return [
            _curve(where, run.own, name, _with_noise(note, noise.get(prefix + name), name), prefix)
            for where, note, prefix in (
                ("held out", "examples never learned from", "held_out_"),
                ("learning", "during the last local epoch", "train_"),
            )
        ]

    return _charts(run, "at the clients", curves)


def _with_noise(note: str, stddev: float | None, figure: str) -> str:
    return note if stddev is None else f"{note}; noise of ±{show_figure(figure, stddev)}"


def _curve(name: str, records: list[RoundRecord], figure: str, note: str = "", where: str = "") -> Curve:
    def value(record: RoundRecord) -> float | None:
        if figure in ("accuracy", "loss"):
            found: float | None = getattr(record, where + figure)
        else:
            found = getattr(record, f"{where}metrics").get(figure)
        return found

    return Curve(name, tuple((record.round, value(record)) for record in records), note)


def _charts(run: StoredRun, where: str, curves: Callable[[str], list[Curve]]) -> list[Chart]:
    is_cross_entropy = run.config.loss == CROSS_ENTROPY
    names = dict.fromkeys(name for record in run.own for name in (*record.metrics, *record.train_metrics))
    others = [name for name in names if name not in ("accuracy", "loss")][:_MOST_METRICS]
    charts = (
        curves_chart(
            f"Accuracy {where}",
            curves("accuracy"),
            y_label="accuracy",
            show=percent,
            tick=lambda value: f"{100 * value:.4g}%",
        ),
        curves_chart(
            f"Loss {where}",
            curves("loss"),
            y_label="mean cross-entropy in nats" if is_cross_entropy else f"mean {run.config.loss}",
            show=lambda value: f"{value:.4f}",
            tick=lambda value: f"{value:g}",
            caption="Mean cross-entropy in nats." if is_cross_entropy else "",
        ),
        *(
            curves_chart(
                f"{name} {where}",
                curves(name),
                y_label=name,
                show=lambda value: f"{value:.4g}",
                tick=lambda value: f"{value:g}",
            )
            for name in others
        ),
    )
    return [chart for chart in charts if chart is not None]


def stayed(record: RoundRecord) -> int:
    """Count the clients that are in the sum and stayed to the end; those who vanished later are in the sum too."""
    late = sum(record.dropped.get(round_.value, 0) for round_ in (Round.CONSISTENCY_CHECK, Round.UNMASKING))
    return max(0, len(record.included) - late)


def client_layers(records: list[RoundRecord]) -> list[Layer]:
    """Return the clients asked in each round by how far they came, as layers of a bar."""
    aborted = tuple(0 if one.included else max(0, one.sampled - sum(one.dropped.values())) for one in records)
    return [
        Layer("stayed", "in the sum, stayed to the end", tuple(map(stayed, records))),
        Layer("aborted", "stayed, but the round was aborted", aborted),
        *(
            Layer(f"at-{round_.value}", _WHERE[round_], tuple(one.dropped.get(round_.value, 0) for one in records))
            for round_ in reversed(Round)
        ),
    ]


def clients_chart(run: StoredRun) -> Chart:
    """Draw the clients asked in each round: who stayed, and where the others vanished."""
    return bars_chart(
        "Clients asked, by how far they came",
        [record.round for record in run.own],
        client_layers(run.own),
        y_label="clients",
        show=lambda value: f"{value:.1f}".removesuffix(".0"),
        tick=lambda value: f"{value:g}",
    )


def seconds_chart(run: StoredRun) -> Chart:
    """Draw the parts of each round's time."""
    own = run.own
    training = tuple(record.training_seconds for record in own)
    server = tuple(record.server_seconds for record in own)
    rest = tuple(max(0.0, record.seconds - record.training_seconds - record.server_seconds) for record in own)
    return bars_chart(
        "Time of a round",
        [record.round for record in own],
        [
            Layer("s2", "clients' training", training),
            Layer("s0", "server's protocol", server),
            Layer("s7", "clients' protocol, network, rest", rest),
        ],
        y_label="seconds",
        show=seconds,
        tick=lambda value: f"{value:g} s",
        caption="Clients' training is added up: where an engine trains several at once, a bar is taller than its round "
        "was long. The test is not in it.",
    )


@dataclass(frozen=True, slots=True)
class CostRow:
    """The costs of one part of an average round, and how many clients vanish in it."""

    name: str
    server_seconds: float
    client_seconds: float
    bytes_up: float
    bytes_down: float
    dropped: float


def cost_rows(run: StoredRun) -> list[CostRow]:
    """Return an average round's costs, part by part.

    Seconds of a client are those of the median client, bytes are of all clients together.
    """
    own = run.own
    download = sum(record.model_bytes for record in own) / len(own)
    rows = [CostRow("model's download", 0.0, 0.0, 0.0, download, 0.0)]
    for round_ in Round:
        costs = [record.phases[round_.value] for record in own if round_.value in record.phases]
        if costs:
            dropped = [record.dropped.get(round_.value, 0) for record in own]
            rows.append(_cost_row(round_.value, costs, dropped))
    if len(rows) == 1:
        names = ("server_seconds", "client_seconds", "bytes_up", "bytes_down")
        costs = [{name: getattr(record, name) for name in names} for record in own]
        rows.append(_cost_row("updates", costs, [sum(record.dropped.values()) for record in own]))
    return rows


def _cost_row(name: str, costs: list[dict[str, float]], dropped: list[int]) -> CostRow:
    """Average over all rounds; a round without the part (it was aborted before) counts as nothing."""
    rounds = len(dropped)
    means = {figure: sum(cost[figure] for cost in costs) / rounds for figure in costs[0]}
    return CostRow(name=name, **means, dropped=sum(dropped) / rounds)

"""What the rounds say, as the page's figures and tables: curves, who vanished, what it cost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fl.formatting import percent
from fl.report.bars import Layer, bars_figure
from fl.report.curves import Curve, curves_figure
from fl.report.figures import Figure
from fl.report.participation import stayed, stayed_for_nothing
from fl.report.source import StoredRun
from fl.runs.records import RoundRecord
from secagg import Round

_WHERE = {
    Round.ADVERTISE_KEYS: "vanished before keys",
    Round.SHARE_KEYS: "vanished before shares",
    Round.MASKED_INPUT_COLLECTION: "vanished before masked input",
    Round.CONSISTENCY_CHECK: "in the sum, vanished before the consistency check",
    Round.UNMASKING: "in the sum, vanished before unmasking",
}


def seconds(value: float) -> str:
    """Three figures, in the unit that suits."""
    if value < 0.0009995:
        return f"{value * 1e6:.0f} µs"
    if value < 0.9995:
        return f"{value * 1e3:.3g} ms"
    return f"{value:.3g} s" if value < 600 else f"{value / 60:.1f} min"


def learning_figures(run: StoredRun) -> list[Figure]:
    """Accuracy and loss on the test set: the run's own, its plain twin's, and what else there is to compare with."""

    def curves(of_record: Callable[[RoundRecord], float | None], name: str) -> list[Curve]:
        found = [Curve(run.config.protocol.aggregator, _points(run.own, of_record))]
        if run.plain:
            found.append(Curve("plain", _points(run.plain, of_record), "the same clients, not encrypted"))
        for series in run.series:
            points = tuple((point.round, getattr(point, name)) for point in series.points)
            found.append(Curve(series.name, points, series.note))
        return found

    figures = (
        curves_figure(
            "Accuracy on the test set",
            curves(lambda record: record.accuracy, "accuracy"),
            y_label="accuracy",
            show=percent,
            tick=_percent_tick,
        ),
        curves_figure(
            "Loss on the test set",
            curves(lambda record: record.loss, "loss"),
            y_label="mean cross-entropy in nats",
            show=_loss,
            tick=_tick,
            caption="Mean cross-entropy in nats.",
        ),
    )
    return [figure for figure in figures if figure is not None]


def client_figures(run: StoredRun) -> list[Figure]:
    """The model on the clients' own examples, as they learn from them and on what they hold out: secure totals."""
    own = run.own
    accuracy = [Curve("held out", _points(own, lambda record: record.held_out_accuracy), "examples never learned from")]
    loss = [Curve("held out", _points(own, lambda record: record.held_out_loss), "examples never learned from")]
    accuracy.append(
        Curve("learning", _points(own, lambda record: record.train_accuracy), "during the last local epoch")
    )
    loss.append(Curve("learning", _points(own, lambda record: record.train_loss), "during the last local epoch"))
    figures = (
        curves_figure("Accuracy at the clients", accuracy, y_label="accuracy", show=percent, tick=_percent_tick),
        curves_figure(
            "Loss at the clients",
            loss,
            y_label="mean cross-entropy in nats",
            show=_loss,
            tick=_tick,
            caption="Mean cross-entropy in nats.",
        ),
    )
    return [figure for figure in figures if figure is not None]


def clients_figure(run: StoredRun) -> Figure:
    """Of the clients that were asked in each round: who stayed, and where the others vanished."""
    own = run.own
    layers = [
        Layer("stayed", "in the sum, stayed to the end", tuple(stayed(record) for record in own)),
        Layer("aborted", "stayed, but the round was aborted", tuple(stayed_for_nothing(record) for record in own)),
    ]
    layers.extend(
        Layer(f"at-{round_.value}", _WHERE[round_], tuple(record.dropped.get(round_.value, 0) for record in own))
        for round_ in reversed(Round)
    )
    return bars_figure(
        "Clients asked, by how far they came",
        [record.round for record in own],
        layers,
        y_label="clients",
        show=lambda value: f"{value:.1f}".removesuffix(".0"),
        tick=lambda value: f"{value:g}",
    )


def seconds_figure(run: StoredRun) -> Figure:
    """Where a round's time went."""
    own = run.own
    training = tuple(record.training_seconds for record in own)
    server = tuple(record.server_seconds for record in own)
    rest = tuple(max(0.0, record.seconds - record.training_seconds - record.server_seconds) for record in own)
    return bars_figure(
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
    """What one part of an average round costs, and how many clients vanish in it."""

    name: str
    server_seconds: float
    client_seconds: float
    bytes_up: float
    bytes_down: float
    dropped: float


def cost_rows(run: StoredRun) -> list[CostRow]:
    """An average round, part by part; a client's seconds are the median client's, bytes are all clients' together."""
    own = run.own
    count = len(own)
    rows = [
        CostRow(
            name="model's download",
            server_seconds=0.0,
            client_seconds=0.0,
            bytes_up=0.0,
            bytes_down=sum(record.model_bytes for record in own) / count,
            dropped=0.0,
        )
    ]
    for round_ in Round:
        costs = [record.phases[round_.value] for record in own if round_.value in record.phases]
        if not costs:
            continue
        rows.append(
            CostRow(
                name=round_.value,
                server_seconds=sum(cost["server_seconds"] for cost in costs) / count,
                client_seconds=sum(cost["client_seconds"] for cost in costs) / count,
                bytes_up=sum(cost["bytes_up"] for cost in costs) / count,
                bytes_down=sum(cost["bytes_down"] for cost in costs) / count,
                dropped=sum(record.dropped.get(round_.value, 0) for record in own) / count,
            )
        )
    if len(rows) == 1:
        rows.append(
            CostRow(
                name="updates",
                server_seconds=sum(record.server_seconds for record in own) / count,
                client_seconds=sum(record.client_seconds for record in own) / count,
                bytes_up=sum(record.bytes_up for record in own) / count,
                bytes_down=sum(record.bytes_down for record in own) / count,
                dropped=sum(sum(record.dropped.values()) for record in own) / count,
            )
        )
    return rows


def _points(
    records: list[RoundRecord], of_record: Callable[[RoundRecord], float | None]
) -> tuple[tuple[int, float | None], ...]:
    return tuple((record.round, of_record(record)) for record in records)


def _percent_tick(value: float) -> str:
    return f"{100 * value:.4g}%"


def _loss(value: float) -> str:
    return f"{value:.4f}"


def _tick(value: float) -> str:
    return f"{value:g}"

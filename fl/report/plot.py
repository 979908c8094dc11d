"""The run as a figure: accuracy, and who vanished where, by round."""

from pathlib import Path

import matplotlib.ticker
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from fl.config.run_config import RunConfig
from fl.report.participation import stayed
from fl.runs.records import RoundRecord
from secagg import Round

_COLORS = {
    Round.ADVERTISE_KEYS: "#8d6a9f",
    Round.SHARE_KEYS: "#c5a6d0",
    Round.MASKED_INPUT_COLLECTION: "#dd8452",
    Round.CONSISTENCY_CHECK: "#e9b44c",
    Round.UNMASKING: "#f2c14e",
}
_INCLUDED = "#4c72b0"
_WHERE = {
    Round.ADVERTISE_KEYS: "vanished before keys",
    Round.SHARE_KEYS: "vanished before shares",
    Round.MASKED_INPUT_COLLECTION: "vanished before masked input",
    Round.CONSISTENCY_CHECK: "vanished before the consistency check (update included)",
    Round.UNMASKING: "vanished before unmasking (update included)",
}


def save_plot(path: Path, config: RunConfig, records: list[RoundRecord]) -> None:
    """Write the figure as a PNG: test accuracy above, clients below. Needs a record at least."""
    figure = Figure(figsize=(9, 7), layout="constrained")
    FigureCanvasAgg(figure)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    own = [record for record in records if record.aggregator == config.protocol.aggregator]

    figure.suptitle(
        f"Federated {config.model} on {config.data.dataset}: {config.data.clients} clients, "
        f"{config.sample} a round, partition {config.partition}"
    )
    for name, style in (("plain", {"color": "#999999", "linestyle": "--"}), ("secure", {"color": _INCLUDED})):
        series = [record for record in records if record.aggregator == name]
        if series:
            rounds = [record.round for record in series]
            accuracies = [100 * record.accuracy for record in series]
            upper.plot(rounds, accuracies, marker="o", markersize=4, label=f"{name}: {accuracies[-1]:.2f}%", **style)
    upper.set_ylabel("test accuracy (%)")
    upper.grid(alpha=0.3)
    upper.legend(title="aggregator, last round", loc="lower right")

    rounds = [record.round for record in own]
    bottom = [stayed(record) for record in own]
    lower.bar(rounds, bottom, color=_INCLUDED, width=0.8, label="stayed to the end")
    for round_ in reversed(Round):
        counts = [record.dropped.get(round_.value, 0) for record in own]
        if any(counts):
            lower.bar(rounds, counts, bottom=bottom, color=_COLORS[round_], width=0.8, label=_WHERE[round_])
            bottom = [low + count for low, count in zip(bottom, counts, strict=True)]
    lower.set_xlabel("communication round")
    lower.set_ylabel("clients")
    lower.set_ylim(0, config.sample * 1.05)
    lower.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))
    lower.legend(fontsize="small", ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.18))
    figure.savefig(path, dpi=120)

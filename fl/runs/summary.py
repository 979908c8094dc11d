"""The summary of a run in one object, which the command line prints as JSON and as a table."""

from typing import Any

from fl.config.run_config import RunConfig
from fl.runs.plan_json import plan_to_json
from fl.runs.records import RoundRecord, main_figures
from secagg import Plan


def summarize(config: RunConfig, records: list[RoundRecord], plan: Plan | None) -> dict[str, Any]:
    """Return the run's figures.

    ``figures`` are the figures to show first (`fl.runs.records.main_figures`); ``included`` has one count per round;
    ``seconds`` is the time of all rounds, without the tests between them; bytes are those of all clients and rounds,
    with the model's downloads; ``ring_difference`` is the largest of all rounds, None if no round was compared.
    """
    own = [record for record in records if record.aggregator == config.protocol.aggregator]
    summary: dict[str, Any] = {
        "dataset": config.data.dataset,
        "model": config.model,
        "aggregator": config.protocol.aggregator,
        "clients": config.data.clients,
        "sample": config.sample,
        "rounds": len(own),
        "accuracy": own[-1].accuracy if own else None,
        "loss": own[-1].loss if own else None,
        "metrics": own[-1].metrics if own else {},
        "figures": main_figures(own[-1]) if own else {},
        "seconds": sum(record.seconds for record in own),
        "seconds_per_round": _mean([record.seconds for record in own]),
        "training_seconds_per_round": _mean([record.training_seconds for record in own]),
        "server_seconds_per_round": _mean([record.server_seconds for record in own]),
        "client_seconds_per_round": _mean([record.client_seconds for record in own]),
        "included": [len(record.included) for record in own],
        "included_clients": [list(record.included) for record in own],
        "dropped": [record.dropped for record in own],
        "aborted": [{"round": record.round, "reason": record.aborted} for record in own if record.aborted],
        "refused": [record.refused for record in own],
        "held_out_accuracy": own[-1].held_out_accuracy if own else None,
        "held_out_loss": own[-1].held_out_loss if own else None,
        "held_out_metrics": own[-1].held_out_metrics if own else {},
        "clipped": max((record.clipped for record in own if record.clipped is not None), default=None),
        "noise": max((record.noise for record in own if record.noise is not None), default=None),
        "epsilon": own[-1].epsilon if own else None,
        "delta": config.privacy.delta,
        **_bytes(own),
    }
    if plan is not None:
        summary["plan"] = plan_to_json(plan)
    if config.protocol.compare:
        plain = [record for record in records if record.aggregator == "plain"]
        differences = [record.ring_difference for record in own if record.ring_difference is not None]
        summary["plain_included"] = [len(record.included) for record in plain]
        summary["plain_accuracy"] = plain[-1].accuracy if plain else None
        summary["plain_figures"] = main_figures(plain[-1]) if plain else {}
        summary["plain_seconds"] = sum(record.seconds for record in plain)
        summary["ring_difference"] = max(differences, default=None)
        summary.update({f"plain_{name}": value for name, value in _bytes(plain).items()})
    return summary


def _bytes(records: list[RoundRecord]) -> dict[str, int]:
    return {
        "bytes_up": sum(record.bytes_up for record in records),
        "bytes_down": sum(record.bytes_down + record.model_bytes for record in records),
        "model_bytes": sum(record.model_bytes for record in records),
    }


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None

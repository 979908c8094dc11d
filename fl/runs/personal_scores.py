"""What secure aggregation shows of the clients' personal models, and its file in a run's folder."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fl.errors import ConfigError
from fl.files import replace_file
from fl.formatting import json_line, percent

SCORES = "personal.json"
"""The name of the file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PersonalScores:
    """What secure aggregation shows of the clients' personal models.

    Attributes:
        method: the method of the personal models.
        clients, held_out: the number of measured clients, and of all their held-out examples.
        loss, metrics: figures of the global model over all held-out examples.
        personal_loss, personal_metrics: the same of the personal models.
        gain: what a client's gain is: ``accuracy``, personal minus global; or ``loss``, the decrease of the loss as a
            fraction of the global model's.
        p10, median, p90: percentiles of the clients' gains, to 0.025.
        better, worse: fractions of the clients whose gain is above, and below, 0.
        lower_loss: the fraction of the clients whose personal model has the lower loss.
        histogram: the number of clients by gain: from -1 to 1 in steps of 0.025.
    """

    method: str
    clients: int
    held_out: int
    loss: float
    metrics: dict[str, float]
    personal_loss: float
    personal_metrics: dict[str, float]
    gain: str
    p10: float
    median: float
    p90: float
    better: float
    worse: float
    lower_loss: float
    histogram: tuple[int, ...]

    def __str__(self) -> str:
        before, after, unit = f"{self.loss:.4f}", f"{self.personal_loss:.4f}", "% of the loss"
        if self.gain != "loss":
            before, after = percent(self.metrics[self.gain]), percent(self.personal_metrics[self.gain])
            unit = "points"
        spread = ", ".join(f"{100 * getattr(self, name):+.1f} {name}" for name in ("p10", "median", "p90"))
        return (
            f"personal models ({self.method}): {self.gain} {before} to {after} on {self.held_out:,} held-out examples "
            f"of {self.clients} clients; gains in {unit}: {spread}; "
            f"{percent(self.better)} gain, {percent(self.worse)} lose"
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {**asdict(self), "histogram": list(self.histogram)}


def save_scores(folder: Path, scores: PersonalScores) -> None:
    """Write ``personal.json`` into a run's folder; ConfigError if that fails."""
    try:
        replace_file(folder / SCORES, (json_line(scores.to_json()) + "\n").encode())
    except OSError as error:
        raise ConfigError(f"cannot write to {folder}: {error.strerror}") from error


def load_scores(folder: Path) -> PersonalScores | None:
    """Return the scores in a run's folder, None if there are none; ConfigError if the file is damaged."""
    path = folder / SCORES
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return PersonalScores(**{**values, "histogram": tuple(values["histogram"])})
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ConfigError(f"{path} is damaged ({error}): move it away") from None

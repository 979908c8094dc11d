"""How a cost grows with the number of clients."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.report import formatting

# From so many clients on, the planner's degrees follow the logarithm; below, a client's neighbours are a large part
# of all clients, which helps against bad luck.
LARGE = 1000


@dataclass(frozen=True, slots=True)
class LogFit:
    """y = constant + slope ln n by least squares.

    Attributes:
        constant, slope: in y's unit.
        r_squared: the fraction of y's variance that the line explains.
        exponent: p of the power law y = c n^p through the same points: 0 is constant, 1 linear.
    """

    constant: float
    slope: float
    r_squared: float
    exponent: float

    def __str__(self) -> str:
        sign = "+" if self.slope >= 0 else "−"
        return f"{formatting.number(self.constant)} {sign} {formatting.number(abs(self.slope))} ln n"

    def at(self, n: Sequence[float]) -> list[float]:
        """The fitted values."""
        return [self.constant + self.slope * float(np.log(x)) for x in n]


def log_fit(n: Sequence[float], y: Sequence[float]) -> LogFit | None:
    """The fit through at least three points with y > 0; None for fewer."""
    if len(set(n)) < 3:
        return None
    logs, values = np.log(np.array(n, dtype=float)), np.array(y, dtype=float)
    slope, constant = np.polyfit(logs, values, 1)
    residual = float(np.sum((values - constant - slope * logs) ** 2))
    spread = float(np.sum((values - values.mean()) ** 2))
    exponent, _ = np.polyfit(logs, np.log(values), 1)
    return LogFit(float(constant), float(slope), 1 - residual / spread if spread else 1.0, float(exponent))

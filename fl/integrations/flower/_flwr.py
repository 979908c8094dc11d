"""All names of Flower that this adapter uses, in one place: if Flower moves one, the import fails here."""

from importlib import metadata

TRIED = "1.40 to 1.42"
"""The releases of flwr that pass the tests."""

try:
    from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, Metadata, MetricRecord, RecordDict
    from flwr.common.config import get_fused_config
    from flwr.common.constant import ErrorCode
    from flwr.serverapp import Grid
    from flwr.serverapp import strategy as strategies
    from flwr.serverapp.strategy import Strategy
except ImportError as error:
    try:
        found = f"flwr {metadata.version('flwr')} is installed"
    except metadata.PackageNotFoundError:
        found = "flwr is not installed: pip install '.[flower]' in the repository's folder"
    raise ImportError(f"secagg's adapter for Flower works with flwr {TRIED}; {found} ({error})") from error

# Flower added this in flwr 1.24.
FAILED_PRECONDITION: int = getattr(ErrorCode, "MOD_FAILED_PRECONDITION", ErrorCode.UNKNOWN)

OF_THE_APP = frozenset({ErrorCode.CLIENT_APP_RAISED_EXCEPTION, FAILED_PRECONDITION})
"""Error codes of answers by an app or its mods, not by Flower."""

CLIENTS_DISCREPANCY_WARNING: str | None = getattr(strategies.dp_fixed_clipping, "CLIENTS_DISCREPANCY_WARNING", None)
"""The warning of strategies with noise if the number of replies differs from the number of clients that they sample."""

__all__ = [
    "CLIENTS_DISCREPANCY_WARNING",
    "FAILED_PRECONDITION",
    "OF_THE_APP",
    "TRIED",
    "Array",
    "ArrayRecord",
    "ConfigRecord",
    "Context",
    "Error",
    "Grid",
    "Message",
    "Metadata",
    "MetricRecord",
    "RecordDict",
    "Strategy",
    "get_fused_config",
    "strategies",
]

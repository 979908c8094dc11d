"""Every name of Flower's that this adapter builds on, in one place: where one moves, this file says so."""

from importlib import metadata

TRIED = "1.40 to 1.42"
"""The releases of flwr that the tests have passed with."""

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

# Added in flwr 1.24.
FAILED_PRECONDITION: int = getattr(ErrorCode, "MOD_FAILED_PRECONDITION", ErrorCode.UNKNOWN)

OF_THE_APP = frozenset({ErrorCode.CLIENT_APP_RAISED_EXCEPTION, FAILED_PRECONDITION})
"""Error codes of what an app or its mods answered, and not Flower."""

CLIENTS_DISCREPANCY_WARNING: str | None = getattr(strategies.dp_fixed_clipping, "CLIENTS_DISCREPANCY_WARNING", None)
"""What strategies with noise log where the number of replies is not that of the clients that they sample."""

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

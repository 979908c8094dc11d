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
        found = "flwr is not installed: pip install 'secagg-fl[flower]'"
    raise ImportError(f"secagg's adapter for Flower works with flwr {TRIED}; {found} ({error})") from error

# Added in flwr 1.24.
FAILED_PRECONDITION: int = getattr(ErrorCode, "MOD_FAILED_PRECONDITION", ErrorCode.UNKNOWN)

__all__ = [
    "FAILED_PRECONDITION",
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

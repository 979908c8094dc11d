"""Watch a running training: events in the log, Prometheus metrics, health checks and a status page.

    watch = Watch("digits", total_rounds=20)
    with serve_watch(watch, ("127.0.0.1", 9100)):
        async with SessionServer(address, tls) as server:
            watch.listener(server, asyncio.get_running_loop())
            for number in ...:
                watch.round_started(number, params)
                await server.run(host, pool, watch.session)
                watch.round_ended(number, host.outcome, seconds, accuracy, loss)

The thread that trains reports to the watch, and other threads read it; readers cannot delay the session. `Events`
only logs. Everything else needs ``pip install '.[serve]'`` and is imported on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from fl.watch.events import Events, RoundFigures
from fl.watch.logs import configure_logging

if TYPE_CHECKING:
    from fl.watch.server import WatchServer, serve_watch
    from fl.watch.state import Watch

__all__ = ["Events", "RoundFigures", "Watch", "WatchServer", "configure_logging", "serve_watch"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("fl.watch.state" if name == "Watch" else "fl.watch.server"), name)

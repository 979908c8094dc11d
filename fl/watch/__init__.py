"""Watching a training that runs: Prometheus metrics, a status page, and logs that machines can read.

    watch = Watch("digits", total_rounds=20)
    with serve_watch(watch, ("127.0.0.1", 9100)):
        async with SessionServer(address, tls) as server:
            watch.listener(server)
            for number in ...:
                watch.round_started(number, params)
                await server.run(host, pool, watch.session)
                watch.round_ended(number, host.outcome, seconds, accuracy, loss)

What happens is put down by one thread and read by others; nobody who reads can hold up the session. Nothing that is
shown tells clients apart, and nothing of it is secret from those who know the sums.
"""

from fl.watch.logs import configure_logging
from fl.watch.server import WatchServer, serve_watch
from fl.watch.state import Watch

__all__ = ["Watch", "WatchServer", "configure_logging", "serve_watch"]

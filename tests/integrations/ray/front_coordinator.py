"""A server over fronts on Ray in a process of its own, which tests kill: a JSON line for each round that opens."""

import asyncio
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from fl.engines.ray.cluster import connected
from fl.fronts.channels import ray_fronts
from tests.support.sessions import make_params
from tests.transport.network import QUICK, deadlines
from transport import Journal, RecoveryPool
from transport.certificates.reading import Credentials
from transport.fronts.coordinator import Coordinator
from transport.fronts.front import FrontSettings
from transport.fronts.server import FrontedServer


def say(**values: Any) -> None:
    sys.stdout.write(json.dumps(values) + "\n")
    sys.stdout.flush()


async def serve(options: dict[str, Any]) -> None:
    params = make_params(options["clients"], options["threshold"], vector_length=options["length"], value_bits=16)
    settings = FrontSettings(("127.0.0.1", options["port"]), Credentials.of_server(options["certs"]), QUICK)
    with connected(options["address"]) as cluster:
        fronts = ray_fronts(cluster, settings, options["fronts"], options["key"])
        async with FrontedServer(fronts, replace(QUICK, farewell_seconds=30)) as server:
            journal, now = Journal(options["journal"]), asyncio.get_running_loop().time()
            if journal.is_empty:
                host = Coordinator(params, deadlines=deadlines(60), now=now, journal=journal)
            else:
                host = Coordinator.resume(journal, deadlines=deadlines(60), now=now, context=b"")
            say(addresses=server.addresses, resumed=host.round.name, received=host.status.received)
            last = None

            def observe(host: Coordinator) -> None:
                nonlocal last
                state = (host.round.name, host.status.received)
                if state != last:
                    last = state
                    say(round=state[0], **{state[0]: state[1]})

            with RecoveryPool(1) as pool:
                await server.run(host, pool, observe)
            included = list(getattr(host.outcome, "included", ()))
            total = host.outcome.sum.tolist() if included else str(host.outcome)
            Path(options["result"]).write_text(json.dumps({"included": included, "sum": total}))
            say(included=included)
        say(ended=True)


if __name__ == "__main__":
    asyncio.run(serve(json.loads(sys.argv[2])))

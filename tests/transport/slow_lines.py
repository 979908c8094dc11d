"""Run a session whose last client has a slow line: python -m tests.transport.slow_lines UP DOWN VALUES ANNOUNCED [CUT]

UP and DOWN in kB/s, ANNOUNCED in bytes; the line breaks once after CUT kB of the slower direction. The limits are the
defaults, since transfers of more than 45 s are the point. Prints connections, bytes and the outcome as JSON.
"""

import asyncio
import json
import sys
import tempfile
from pathlib import Path

import secagg
from tests.support.sessions import random_inputs
from tests.transport.network import check_exact, deployment, join, served
from tests.transport.throttle import ThrottleProxy
from transport import Deadlines
from transport.tcp import Limits, Retry

CLIENTS = 3
FAST = 50_000.0
LIMITS = Limits()


async def slow_session(certs: Path, up: float, down: float, values: int, announced: int, cut: float) -> dict:
    params = secagg.plan(num_clients=CLIENTS, vector_length=values, value_bits=16, dropout=0.34).parameters
    inputs = random_inputs(params, seed=1)
    deadlines = Deadlines(masked_input_collection=900)
    options = {"limits": LIMITS, "retry": Retry(), "max_extra": 1 << 28}
    way = "up" if up < down else "down"
    async with (
        served(params, certs, limits=LIMITS, deadlines=deadlines, extra=bytes(announced)) as serving,
        ThrottleProxy(serving.port, up * 1e3, down * 1e3, ((way, int(cut * 1e3)),) if cut else ()) as proxy,
    ):
        fast = [join(serving.port, inputs[i], certs, i, **options) for i in range(CLIENTS - 1)]
        last = join(proxy.port, inputs[CLIENTS - 1], certs, CLIENTS - 1, **options)
        ends = await asyncio.gather(*fast, last)
        report = await serving.task
    return {
        "exact": check_exact(params, inputs, report.outcome),
        "included": len(getattr(report.outcome, "included", ())),
        "ends": [end.code.name for end in ends],
        "connections": proxy.connections,
        "input_bytes": secagg.max_message_bytes(params),
        "bytes_up": proxy.passed["up"],
        "bytes_down": proxy.passed["down"],
        "refusals": dict(report.refusals),
        "seconds": round(report.seconds, 1),
    }


def main() -> None:
    up, down, values, announced, cut = (float(given) for given in [*sys.argv[1:], "0"][:5])
    with tempfile.TemporaryDirectory() as folder:
        certs = deployment(Path(folder) / "certs", CLIENTS)
        found = asyncio.run(slow_session(certs, up, down, int(values), int(announced), cut))
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()

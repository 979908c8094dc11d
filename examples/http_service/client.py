"""One household: python client.py http://127.0.0.1:8000 tokens/3 readings.txt (24 whole numbers, one per line)."""

import json
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np

import secagg
from transport import ClientDriver, InputWithheldError

CONTEXT = b"watt-hours by hour of the day"  # the client's own name for the sum, not the server's
# This household trusts the utility to follow the protocol. Without that trust, give each household an identity, as
# ../network_sum does, and leave `adversary` out: the default demands safety against a server that lies.
POLICY = secagg.SessionPolicy(adversary=secagg.Adversary.HONEST_BUT_CURIOUS, min_inputs=3)
ATTEMPTS = 10

url, token_file, readings_file = sys.argv[1:]
token = Path(token_file).read_text()


def call(method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
    """Return status and body of the answer. Retries are safe, since messages have numbers and count once."""
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/octet-stream"}
    for attempt in range(ATTEMPTS):
        try:
            request = urllib.request.Request(url + path, body, headers, method=method)  # noqa: S310 - the user's URL
            with urllib.request.urlopen(request, timeout=60) as response:  # noqa: S310
                return response.status, response.read()
        except urllib.error.HTTPError as error:
            sys.exit(f"the server refused: {error.code} {error.read().decode(errors='replace')}")
        except OSError as error:
            if attempt == ATTEMPTS - 1:
                sys.exit(f"the server cannot be reached: {error}")
            time.sleep(1)
    raise AssertionError


def ask(path: str) -> bytes:
    """Ask until the server has an answer, and return its body."""
    while True:
        status, body = call("GET", path)
        if status != 204:
            return body


def joined(offer: dict[str, Any]) -> secagg.Client:
    """Return a client for the offered session, if the offer fits this household's own rules."""
    try:
        values = offer["parameters"]
        params = secagg.Parameters(**{**values, "adversary": secagg.Adversary(values["adversary"])})
        POLICY.check(params)
        client = secagg.Client(params, offer["client_id"], context=CONTEXT, nonce=bytes.fromhex(offer["nonce"]))
    except secagg.PolicyError as error:
        sys.exit(f"the server's offer does not protect this household: {error}")
    except (KeyError, TypeError, ValueError, secagg.SecAggError) as error:
        sys.exit(f"the server's offer is invalid: {error!r}")
    if (params.vector_length, params.value_bits) != (24, 16):
        sys.exit("the server does not ask for 24 readings of up to 65535 watt-hours")
    return client


def readings() -> np.ndarray:
    """Return the readings; called only when the input is due."""
    try:
        return np.array([int(line) for line in Path(readings_file).read_text().split()])
    except (OSError, ValueError) as error:
        raise InputWithheldError(f"no readings: {error}") from None


driver = ClientDriver(joined(json.loads(ask("/session"))), readings)
outgoing = driver.start()
sent = received = 0
while True:
    for parts in outgoing:
        call("PUT", f"/messages/{sent}", b"".join(parts))
        sent += 1
    if driver.finished:
        break
    try:
        outgoing = driver.data_received(ask(f"/messages/{received}"))
    except secagg.LocalProtocolError as error:
        sys.exit(f"these readings cannot be summed: {error}")
    received += 1
if driver.error is not None:
    sys.exit(f"gave up: {driver.error}")
outcome = json.loads(ask("/sum"))
print(f"{len(outcome['included'])} households used", *outcome["sum"], "watt-hours, by hour")

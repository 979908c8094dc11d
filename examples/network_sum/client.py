"""One of the five clients: python client.py 0, and so on to 4, each in a process or on a machine of its own."""

import asyncio
import sys

import numpy as np

from transport.certs import Credentials
from transport.tcp import join_session

client_id = int(sys.argv[1])
vector = np.array([1, client_id, 10 * client_id, 100 * client_id])
end = asyncio.run(join_session(vector, address=("localhost", 7000), tls=Credentials.of_client("certs", client_id)))
print(f"client {client_id}: {end.code.name}, {end.included} inputs are in the sum")

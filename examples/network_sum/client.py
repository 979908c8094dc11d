"""One of the five clients: python client.py 0, and so on to 4, each in its own process or on its own machine."""

import asyncio
import sys

import numpy as np

import secagg
from transport import ClientRecord, Participation
from transport.certificates.reading import Credentials, directory_from, identity_from
from transport.tcp import join_session

client_id = int(sys.argv[1])
tls = Credentials.of_client("certs", client_id)
identity = identity_from(tls.key)
end = asyncio.run(
    join_session(
        np.array([1, client_id, 10 * client_id, 100 * client_id]),
        address=("localhost", 7000),
        tls=tls,
        # The default policy declines a session unless even a lying server learns only a sum of three or more inputs.
        accept=secagg.SessionPolicy(min_inputs=3),
        context=b"examples/network_sum",
        identity=identity,
        directory=directory_from("certs", "certs/ca.pem"),
        # This is on the disk, so that no session is ever entered twice.
        record=ClientRecord(Participation.in_folder(f"state-{client_id}"), identity.public_key),
    )
)
print(f"client {client_id}: {end.code.name}, {end.included} inputs are in the sum")

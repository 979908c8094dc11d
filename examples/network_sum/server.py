"""Learns the sum of five vectors and nothing else. First: secagg certs certs --clients 5 --server localhost"""

import asyncio

import secagg
from transport.certs import Credentials
from transport.tcp import serve_session

params = secagg.plan(num_clients=5, vector_length=4, value_bits=16, dropout=0.2).parameters
report = asyncio.run(
    serve_session(params, address=("localhost", 7000), tls=Credentials.of_server("certs"), journal="sum.journal")
)
print(report.outcome, report.outcome.sum if isinstance(report.outcome, secagg.Completed) else "")  # noqa: T201

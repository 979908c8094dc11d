"""Learns the sum of five vectors and nothing else. First: secagg certs certs --clients 5 --server localhost"""

import asyncio

import secagg
from transport.certs import Credentials
from transport.tcp import NetworkReport, serve_session

params = secagg.plan(num_clients=5, vector_length=4, value_bits=16, dropout=0.2).parameters


def show(report: NetworkReport) -> None:
    """Called before the journal is deleted: a sum that was not shown is given again when the server is restarted."""
    print(report.outcome, report.outcome.sum if isinstance(report.outcome, secagg.Completed) else "")


certificate = Credentials.of_server("certs")
asyncio.run(serve_session(params, address=("localhost", 7000), tls=certificate, journal="sum.journal", on_outcome=show))

"""Learns the sum of five vectors and nothing else. First: secagg certs certs --clients 5 --server localhost"""

import asyncio

import secagg
from transport.certificates.reading import Credentials, directory_from
from transport.tcp import NetworkReport, serve_session

params = secagg.plan(
    num_clients=5, vector_length=4, value_bits=16, dropout=0.2, adversary=secagg.Adversary.MALICIOUS
).parameters


def show(report: NetworkReport) -> None:
    """Called before the journal is deleted: a sum that was not shown is given again when the server is restarted."""
    print(report.outcome, report.outcome.sum if isinstance(report.outcome, secagg.Completed) else "")


asyncio.run(
    serve_session(
        params,
        address=("localhost", 7000),
        tls=Credentials.of_server("certs"),
        context=b"examples/network_sum",
        directory=directory_from("certs", "certs/ca.pem"),
        journal="sum.journal",
        on_outcome=show,
    )
)

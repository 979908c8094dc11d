"""A server that learns only the sum of five vectors. First: secagg certs certs --clients 5 --server localhost"""

import asyncio

import secagg
from transport.certificates.reading import Credentials, directory_from
from transport.tcp import NetworkReport, serve_session

params = secagg.plan(
    num_clients=5, vector_length=4, value_bits=16, dropout=0.2, adversary=secagg.Adversary.MALICIOUS
).parameters


def show(report: NetworkReport) -> None:
    """Show the outcome. This runs before the journal is deleted, so a restarted server gives a lost sum again."""
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

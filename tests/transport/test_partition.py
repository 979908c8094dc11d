"""A network that the kernel cuts in the middle of a round: clients in their own network namespaces.

Needs root and iproute2; skipped with the reason if one is missing.
"""

import asyncio
import dataclasses
import os
import shutil
import subprocess

import pytest

from secagg import Completed, DropReason, Round
from tests.support.sessions import any_session, exact_sum, make_params
from tests.transport.children import Child
from tests.transport.load_child import vector_of
from tests.transport.network import deadlines, served
from transport.certificates.authority import Authority
from transport.certificates.reading import Credentials
from transport.tcp import Limits, join_session

pytestmark = pytest.mark.live

CLIENTS = 5
APART = (3, 4)
QUICK = Limits(idle_seconds=0.4, answer_seconds=0.4, farewell_seconds=0.5)


def ip(*arguments):
    command = [shutil.which("ip") or "/usr/sbin/ip", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603


class Apart:
    """A namespace that a cable joins to this one."""

    def __init__(self, number):
        self.name = f"secagg-{os.getpid()}-{number}"
        # Names of interfaces have at most 15 characters.
        self._cable = f"sa{os.getpid() % 10**6}h{number}"
        self._other_end = f"sa{os.getpid() % 10**6}c{number}"
        network = f"10.203.{os.getpid() % 250}.{4 * number}"
        first, last = network.rsplit(".", 1)
        self.server, self._client = f"{first}.{int(last) + 1}", f"{first}.{int(last) + 2}"

    def make(self):
        ip("netns", "add", self.name)
        ip("link", "add", self._cable, "type", "veth", "peer", "name", self._other_end, "netns", self.name)
        ip("address", "add", f"{self.server}/30", "dev", self._cable)
        ip("-n", self.name, "address", "add", f"{self._client}/30", "dev", self._other_end)
        ip("-n", self.name, "link", "set", self._other_end, "up")
        self.join()

    def cut(self):
        ip("link", "set", self._cable, "down")

    def join(self):
        ip("link", "set", self._cable, "up")

    def remove(self):
        for command in (("link", "delete", self._cable), ("netns", "delete", self.name)):
            subprocess.run(["ip", *command], capture_output=True, check=False)  # noqa: S603, S607


@pytest.fixture
def namespaces():
    if shutil.which("ip") is None:
        pytest.skip("no `ip` command: install iproute2")
    apart = {i: Apart(i) for i in APART}
    try:
        try:
            for one in apart.values():
                one.make()
        except (OSError, subprocess.CalledProcessError) as error:
            reason = (getattr(error, "stderr", "") or str(error)).strip()
            pytest.skip(f"network namespaces cannot be made here: {reason}; it takes root and CAP_NET_ADMIN")
        yield apart
    finally:
        for one in apart.values():
            one.remove()


def test_a_client_that_is_cut_off_comes_back_and_one_that_stays_away_is_dropped(namespaces, tmp_path):
    params = make_params(CLIENTS, 3, vector_length=20_000)
    inputs = {i: vector_of(i, params) for i in range(CLIENTS)}
    servers = [one.server for one in namespaces.values()]
    certs = tmp_path / "certs"
    Authority.create(certs).issue(server_names=["127.0.0.1", *servers], client_ids=range(CLIENTS))
    children = {}
    reconnects = 0

    def watch(host):
        nonlocal reconnects
        reconnects = host.counters.reconnects

    async def scenario():
        options = {"limits": QUICK, "address": ("0.0.0.0", 0), "observer": watch}  # noqa: S104 - the cables' ends
        patience = dataclasses.replace(deadlines(20), masked_input_collection=6.0)
        async with served(params, certs, deadlines=patience, **options) as serving:
            for i, one in namespaces.items():
                children[i] = Child(
                    "tests.transport.load_child",
                    "one",
                    before=("ip", "netns", "exec", one.name),
                    address=(one.server, serving.port),
                    certs=str(certs),
                    clients=CLIENTS,
                    threshold=3,
                    length=20_000,
                    id=i,
                )
            others = [
                asyncio.create_task(
                    join_session(
                        inputs[i],
                        address=("127.0.0.1", serving.port),
                        tls=Credentials.of_client(certs, i),
                        accept=any_session,
                        limits=QUICK,
                    )
                )
                for i in inputs
                if i not in APART
            ]
            for child in children.values():
                await asyncio.to_thread(child.wait_for, "asked")
            for one in namespaces.values():
                one.cut()
            # Their masked inputs go into cables that lead nowhere.
            for child in children.values():
                child.go()
            await asyncio.sleep(1.5)
            namespaces[APART[0]].join()
            report = await serving.task
            await asyncio.gather(*others)
            end = await asyncio.to_thread(children[APART[0]].wait_for, "end")
            return report, end

    try:
        report, end = asyncio.run(scenario())
    finally:
        for child in children.values():
            child.close()
    assert isinstance(report.outcome, Completed)
    assert report.outcome.included == (0, 1, 2, 3)
    assert report.outcome.sum.tolist() == exact_sum(params, [inputs[i] for i in report.outcome.included])
    assert end == {"end": "COMPLETED"}
    assert set(report.dropped) == {APART[1]}
    assert report.dropped[APART[1]].reason is DropReason.DEADLINE
    assert report.dropped[APART[1]].round is Round.MASKED_INPUT_COLLECTION
    # Both connections were found dead by their silence; one of the clients came back.
    assert report.refusals["silent"] >= 1
    assert reconnects >= 1

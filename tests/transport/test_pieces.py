"""Large frames in pieces: over slow lines, over lines that break, and not again what is already there."""

import asyncio
import hashlib

import pytest

from secagg import Aborted, Completed
from tests.support.sessions import make_params, random_inputs
from tests.transport.hosts import PARAMS, greet, new_client, new_host, payload_of, run_to_the_end
from tests.transport.large_inputs import LargeInputs
from tests.transport.link_world import MODES, run_schedule
from tests.transport.network import check_exact, deadlines, deployment, join, served
from tests.transport.throttle import ThrottleProxy
from transport import Deadlines, HeldAnnouncement
from transport.durable import frames as link
from transport.durable import pieces as _pieces
from transport.tcp import Limits

pytestmark = pytest.mark.live

CLIENTS = 3
EXTRA = bytes(range(256)) * 1600
# A line takes twice as long for a transfer as silence may last.
LINE = {"up": 60_000.0, "down": 130_000.0}
QUICK = Limits(idle_seconds=1.0, answer_seconds=0.5, farewell_seconds=0.5)
WIDE = make_params(CLIENTS, 2, vector_length=150_000)


@pytest.fixture(scope="module")
def certs(tmp_path_factory):
    return deployment(tmp_path_factory.mktemp("certs"), CLIENTS)


@pytest.fixture
def small_pieces(monkeypatch):
    """Make windows proportional to the transfers of these tests."""
    monkeypatch.setattr(_pieces, "PIECE_BYTES", 4096)
    monkeypatch.setattr(_pieces, "WINDOW_BYTES", 1 << 16)


async def over_a_line(certs, params, *, up=1e7, down=1e7, cuts=(), extra=b""):
    """Run a session with one client behind such a line; return the bytes that passed."""
    inputs = random_inputs(params, seed=3)
    async with (
        asyncio.timeout(60),
        served(params, certs, limits=QUICK, extra=extra, deadlines=deadlines(40)) as serving,
        ThrottleProxy(serving.port, up, down, cuts) as proxy,
    ):
        ports = [serving.port] * (CLIENTS - 1) + [proxy.port]
        await asyncio.gather(*(join(port, inputs[i], certs, i, limits=QUICK) for i, port in enumerate(ports)))
        report = await serving.task
    assert check_exact(params, inputs, report.outcome)
    assert report.outcome.included == tuple(range(CLIENTS))
    return report, proxy


def test_an_input_goes_up_a_slow_line_over_one_connection(certs, small_pieces):
    report, proxy = asyncio.run(over_a_line(certs, WIDE, up=LINE["up"]))
    assert proxy.connections == 1
    assert not report.refusals
    assert report.counters.reconnects == 0


def test_an_announcement_comes_down_a_slow_line_over_one_connection(certs, small_pieces):
    report, proxy = asyncio.run(over_a_line(certs, make_params(CLIENTS, 2), down=LINE["down"], extra=EXTRA))
    assert proxy.connections == 1
    assert not report.refusals
    assert report.counters.announcement_bytes < 1.02 * CLIENTS * len(EXTRA)


@pytest.mark.parametrize("way", ["up", "down"])
def test_a_broken_transfer_continues_where_it_stopped(way, certs, small_pieces):
    params = make_params(CLIENTS, 2, vector_length=600_000 if way == "up" else 10)
    size = params.vector_length * params.ring_bits // 8 if way == "up" else len(EXTRA)
    cuts = tuple((way, size // 3) for _ in range(2))
    _, proxy = asyncio.run(over_a_line(certs, params, cuts=cuts, extra=b"" if way == "up" else EXTRA))
    assert proxy.connections == len(cuts) + 1
    # Handshakes, small messages, and at each break the bytes that were on their way.
    assert proxy.passed[way] < size + len(cuts) * (1 << 16) + 40_000


@pytest.mark.parametrize("mode", MODES)
def test_any_faults_with_pieces_give_the_exact_sum_or_an_abort(mode, monkeypatch):
    monkeypatch.setattr(_pieces, "PIECE_BYTES", 48)
    monkeypatch.setattr(_pieces, "WINDOW_BYTES", 160)
    schedules = 24
    completed = sum(isinstance(run_schedule(mode, seed)[0], Completed) for seed in range(schedules))
    assert completed > schedules // 2


def test_an_announcement_is_not_sent_again_to_a_client_that_holds_it():
    held = HeldAnnouncement()
    extra = bytes(300_000)
    sizes = []
    for nonce in (b"first", b"second"):
        host = new_host(extra=extra, nonce=nonce)
        clients = {i: new_client(i, held=held if i == 0 else None) for i in range(PARAMS.num_clients)}
        run_to_the_end(host, clients)
        assert isinstance(host.outcome, Completed)
        assert clients[0].offer.extra == extra
        sizes.append(host.counters.announcement_bytes)
    assert 4 * len(extra) < sizes[0] < 4.01 * len(extra)
    assert 3 * len(extra) < sizes[1] < 3.01 * len(extra)


def test_a_message_that_is_there_is_acknowledged_and_not_sent_again():
    session = LargeInputs()
    session.send_input(0)
    session.host.left(0, 1.0)
    # The acknowledgement is lost: the client reports again what it has.
    session.connect(0)
    assert session.from_server(0) == [link.Ack(2)]
    session.run()
    assert session.host.outcome.included == (0, 1, 2, 3)


def test_a_half_sent_input_continues_where_it_stopped():
    session = LargeInputs()
    large, pieces = session.large[0], session.pieces(0)
    session.up(0, large)
    for piece in pieces[:3]:
        session.up(0, piece)
    session.connect(0)
    (want,) = (frame for frame in session.from_server(0) if isinstance(frame, _pieces.Want))
    assert want == _pieces.Want(large.digest, 3 * _pieces.PIECE_BYTES, large.size)
    session.run()
    assert session.host.outcome.included == (0, 1, 2, 3)


def test_the_round_waits_for_downloads_within_limits():
    """A client that gets another part is waited for again; one that only claims it is not."""
    extra = bytes(4 * _pieces.WINDOW_BYTES)
    host = new_host(extra=extra, deadlines=Deadlines(advertise_keys=30, download=100))
    greet(host, 0, now=0.0)
    digest, step = hashlib.sha256(extra).digest(), _pieces.WINDOW_BYTES // 4
    for number in range(7):
        now = 20.0 * number
        want = payload_of(_pieces.Want(digest, number * step, number * step + _pieces.WINDOW_BYTES))
        host.frame_received(0, want, now)
        assert host.deadline == min(now + 30.0, 130.0)
        host.frame_received(0, want, now + 5.0)
        host.tick(now + 5.0)
        assert host.deadline == min(now + 30.0, 130.0)
    host.tick(130.0)
    host.commit(130.0)
    assert isinstance(host.outcome, Aborted)

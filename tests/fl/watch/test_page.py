"""The status page as a person sees it, in headless Chromium.

With SECAGG_KEEP_SCREENSHOT=1 the picture in the documentation is made again.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

from fl.watch import RoundFigures, Watch, serve_watch
from secagg import Aborted, AbortReason, Completed, Round, ServerPhase
from tests.fl.watch.browser import COMMAND, Browser
from tests.fl.watch.sessions import StubHost
from tests.support.sessions import make_params, random_inputs
from tests.transport.network import QUICK, deadlines, join
from transport import RecoveryPool, SessionHost, encode_frame
from transport.durable import frames as link
from transport.tcp import PLAINTEXT, SessionServer

pytestmark = pytest.mark.browser

PICTURE = Path(__file__).parents[3] / "docs" / "status-page.png"

ACCURACIES = (0.31, 0.58, 0.712, 0.789, 0.835, 0.852, 0.88, 0.901, 0.914)


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[Browser]:
    if COMMAND is None:
        pytest.skip("no chromium; apt-get install chromium")
    browser = Browser(tmp_path_factory.mktemp("chromium"))
    try:
        yield browser
    finally:
        browser.close()


def watch_in_the_middle() -> Watch:
    """Return a watch in which nine rounds of twenty are over, one of them without a sum."""
    watch = Watch("digits, small-cnn", total_rounds=20)
    accuracies = iter(ACCURACIES)
    for number in range(1, 11):
        aborted = "too-few-clients" if number == 5 else None
        accuracy = None if aborted else next(accuracies)
        watch.restore(RoundFigures(
            number=number, included=0 if aborted else 23 - number % 3, invited=24, seconds=4.1 + number % 4 / 3,
            dropped={"deadline": 11 if aborted else 1 + number % 3}, accuracy=accuracy,
            loss=None if accuracy is None else 2.3 * (1 - accuracy), bytes_up=41_200 - 180 * (number % 3),
            bytes_down=86_500 - 210 * (number % 4), aborted=aborted,
        ))  # fmt: skip
    return watch


async def session_in_its_middle(watch: Watch, number: int, at_the_input, clients: int = 24) -> SessionHost:
    """Run a real session; call ``at_the_input`` in a thread when all but a few masked inputs are in."""
    params = make_params(clients, 14)
    inputs = random_inputs(params, seed=0)
    seen = asyncio.Event()

    def observer(host: SessionHost) -> None:
        watch.session(host)
        if host.round is Round.MASKED_INPUT_COLLECTION and host.status.received == clients - 9:
            seen.set()

    looked = asyncio.Event()
    loop = asyncio.get_running_loop()
    # Each slow client takes a thread, and by default there are few.
    loop.set_default_executor(ThreadPoolExecutor(clients + 8))

    def slow_input(vector):
        # Made in a thread: a client that is still training.
        return lambda _: (asyncio.run_coroutine_threadsafe(looked.wait(), loop).result(10), vector)[1]

    watch.round_started(number, params)
    host = SessionHost(params, deadlines=deadlines(15), now=loop.time())
    with RecoveryPool(1) as pool:
        async with SessionServer(("127.0.0.1", 0), PLAINTEXT, QUICK) as server:
            watch.listener(server)
            running = asyncio.create_task(server.run(host, pool, observer))
            port = server.addresses[0][1]
            # Two send invalid messages and are dropped at once, seven are slow, all others answer.
            bad = [asyncio.create_task(dropped(port, i)) for i in (0, 1)]
            joins = [
                asyncio.create_task(join(port, inputs[i] if i >= 9 else slow_input(inputs[i]), PLAINTEXT, i))
                for i in inputs
                if i > 1
            ]
            await asyncio.wait_for(seen.wait(), 10)
            await asyncio.to_thread(at_the_input)
            looked.set()
            await asyncio.gather(running, *joins, *bad)
    return host


async def dropped(port: int, client_id: int) -> None:
    """Run a client that sends an invalid message."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for item in (link.Identify(client_id), link.Hello(), link.Message(0, b"nonsense")):
        writer.write(encode_frame(link.encode(item)))
    await reader.read()
    writer.close()
    await writer.wait_closed()


def test_the_page_shows_the_running_round(browser: Browser, tmp_path: Path) -> None:
    watch = watch_in_the_middle()
    with serve_watch(watch, ("127.0.0.1", 0)) as server:
        page = browser.open(server.url, scale=1.5)
        other = browser.open(server.url, width=390, dark=True)
        for each in (page, other):
            each.until("document.getElementById('link').textContent === 'live'")
            each.until("document.getElementById('round').textContent === '10'")
            # Finished rounds come in a separate message, after it.
            each.until("document.querySelectorAll('#curve circle').length === 1")
        assert len(page.value("document.querySelector('#curve polyline').getAttribute('points')").split()) == 9

        def look() -> None:
            for each in (page, other):
                each.until("document.querySelector('#phases .running')?.innerText.includes('15 in')")
            assert page.text("#round") == "11"
            assert page.text("#state") == "running"
            assert "masked input collection" in page.text("#phases .running")
            assert page.value("document.querySelectorAll('#phases .done').length") == 2
            assert page.text("#dropped") == "Dropped: 2 malformed."
            tiles = page.text("#tiles")
            assert "Survivors 22 of 24, 14 needed" in tiles
            assert "Pending 7" in tiles
            assert "Accuracy 91.40%" in tiles
            assert page.text("#rounds tr:first-child").startswith("10 22 of 24 91.40%")
            assert "aborted: too few clients" in page.text("#rounds .failed")
            page.screenshot(tmp_path / "page.png")
            other.screenshot(tmp_path / "phone.png")

        host = asyncio.run(session_in_its_middle(watch, 11, look))
        assert isinstance(host.outcome, Completed)
        watch.round_ended(11, host.outcome, 5.0, accuracy=0.925, loss=0.2)
        for each in (page, other):
            each.until("document.querySelector('#rounds tr').innerText.startsWith('11')")
            each.until("document.getElementById('tiles').innerText.includes('92.50%')")
            each.until("document.querySelectorAll('#phases .done').length === 5")
        # On a phone only the table itself scrolls sideways.
        assert other.value("document.documentElement.scrollWidth <= innerWidth")
        assert browser.console == []
    if os.environ.get("SECAGG_KEEP_SCREENSHOT"):
        PICTURE.write_bytes((tmp_path / "page.png").read_bytes())


def test_reasons_of_declines_are_text_for_any_content(browser: Browser) -> None:
    watch = Watch("digits", total_rounds=2)
    progress = SimpleNamespace(phase=ServerPhase.ADVERTISE_KEYS, received=0, pending=4, needed=2)
    markup = "<img src=x onerror=document.title='owned'>"
    host = StubHost(declined={0: "40 epochs", 1: "40 epochs", 2: markup}, dropped={}, progress=progress)
    with serve_watch(watch, ("127.0.0.1", 0)) as server:
        page = browser.open(server.url, width=390)
        watch.session(host)  # type: ignore[arg-type]
        page.until("document.querySelectorAll('#declined li').length === 2")
        assert page.text("#declined") == f"2 declined: 40 epochs 1 declined: {markup}"
        assert page.value("document.querySelector('#declined img')") is None
        assert page.value("document.documentElement.scrollWidth <= innerWidth")
        assert page.value("document.title").startswith("digits")


def test_the_page_comes_back_when_the_server_does(browser: Browser) -> None:
    watch = Watch("digits", total_rounds=2)
    with serve_watch(watch, ("127.0.0.1", 0)) as server:
        address = server.server_address[:2]
        page = browser.open(server.url)
        page.until("document.getElementById('link').textContent === 'live'")
        assert page.text("#no-curve") == "Nothing has been measured yet."
    page.until("document.getElementById('link').textContent === 'reconnecting'")
    again = Watch("digits", total_rounds=2)
    again.restore(RoundFigures(number=1, included=4, seconds=2.0, accuracy=0.5))
    with serve_watch(again, address):
        page.until("document.getElementById('link').textContent === 'live'")
        page.until("document.getElementById('round').textContent === '1'")
        again.round_ended(2, Aborted(AbortReason.TOO_FEW_CLIENTS, Round.UNMASKING, 3, 2), 1.0)
        page.until("document.getElementById('state').textContent === 'finished'")


def test_a_private_training_shows_what_it_has_spent(browser: Browser, tmp_path: Path) -> None:
    private = Watch("digits, logistic", total_rounds=20, epsilon=8.0, delta=1e-5)
    plain = Watch("digits, logistic", total_rounds=20)
    for watch, epsilon in ((private, 2.7182), (plain, None)):
        watch.restore(RoundFigures(number=1, included=22, invited=24, seconds=4.1, accuracy=0.5, epsilon=epsilon))
    for watch, tile, columns in ((private, "Epsilon 2.718 of 8, at delta 0.00001", 10), (plain, "", 9)):
        with serve_watch(watch, ("127.0.0.1", 0)) as server:
            page = browser.open(server.url)
            page.until("document.querySelectorAll('#rounds tr').length === 1")
            assert ("Epsilon" in page.text("#tiles")) == bool(tile)
            assert tile in page.text("#tiles")
            assert ("Epsilon" in page.text("table")) == bool(tile)
            assert page.value("document.querySelectorAll('#rounds td').length") == columns
            page.screenshot(tmp_path / "page.png")

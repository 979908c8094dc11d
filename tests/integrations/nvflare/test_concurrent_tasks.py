"""Tasks at the same time: NVFlare executes tasks that a server pushes beside those that a site asks for."""

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("nvflare", reason="needs NVFlare, which has its own environment: make test-nvflare")

from nvflare.apis.fl_constant import ReturnCode
from nvflare.apis.shareable import make_reply
from nvflare.app_common.abstract.fl_model import FLModel
from nvflare.fuel.utils import fobs

from fl.integrations.nvflare import messages
from fl.integrations.nvflare.server_session import Result
from fl.integrations.nvflare.site_session import SiteSession
from secagg import Round
from tests.integrations.nvflare.cohort import (
    SITES,
    VICTIM,
    Cohort,
    assert_ends_well,
    by_learning_rate,
    courier_of,
    model_with,
)
from tests.integrations.nvflare.loopback import LoopbackCourier

TRAINS = Round.MASKED_INPUT_COLLECTION
PATIENCE = 60.0


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as pool:
        yield pool


class Paused:
    """Training that has begun, and continues when the test says so."""

    def __init__(self) -> None:
        self.began, self.may_go_on, self.times = threading.Event(), threading.Event(), 0

    def train(self, model: FLModel) -> FLModel:
        self.times += 1
        self.began.set()
        assert self.may_go_on.wait(PATIENCE)
        return by_learning_rate(VICTIM)(model)


def while_it_trains(courier: LoopbackCourier, paused: Paused, threads: ThreadPoolExecutor, do: Any) -> None:
    """Begin the victim's training in a thread, ``do`` something meanwhile, and wait for both."""
    honest = courier.next_result

    def next_result(timeout: float) -> Result | None:
        if not courier._due or courier._due[0] != (VICTIM, TRAINS):
            return honest(timeout)
        result = threads.submit(honest, timeout)
        try:
            assert paused.began.wait(PATIENCE)
            begun: Future[Any] | None = do()
        finally:
            paused.may_go_on.set()
        if begun is not None:
            begun.result(PATIENCE)
        return result.result(PATIENCE)

    courier.next_result = next_result  # type: ignore[method-assign]


@pytest.mark.parametrize("what", ["the same", "another model", "a new round", "the shares"])
def test_a_task_beside_another_is_refused_and_changes_nothing(
    tmp_path: Path, threads: ThreadPoolExecutor, what: str
) -> None:
    cohort, paused, model = Cohort(tmp_path), Paused(), model_with(0.25)
    sites = cohort.sites()
    sites[VICTIM].trainer.train = paused.train
    courier = courier_of(sites, model)
    site = sites[VICTIM]

    def push() -> None:
        task, data = messages.TASKS[TRAINS], courier.sent[VICTIM, TRAINS]
        if what == "another model":
            shareable = fobs.loads(data)
            shareable["DXO"]["data"]["bias"][0] += 1
            data = fobs.dumps(shareable)
        elif what == "a new round":
            other = courier_of(sites, model, announced={"nonce": b"another"}).announcement
            task, data = messages.TASKS[Round.ADVERTISE_KEYS], fobs.dumps(messages.announcing(other.to_bytes()))
        elif what == "the shares":
            task = messages.TASKS[Round.UNMASKING]
        assert site.do(task, data) == make_reply(ReturnCode.SERVICE_UNAVAILABLE)

    while_it_trains(courier, paused, threads, push)
    assert_ends_well(cohort, courier)
    assert paused.times == 1


def test_the_same_task_gets_the_same_answer_afterwards(tmp_path: Path, threads: ThreadPoolExecutor) -> None:
    cohort, paused = Cohort(tmp_path), Paused()
    sites = cohort.sites()
    sites[VICTIM].trainer.train = paused.train
    courier = courier_of(sites, model_with(0.25))
    while_it_trains(courier, paused, threads, lambda: None)
    honest = courier.next_result

    def twice(timeout: float) -> Result | None:
        due = list(courier._due)[:1]
        result = honest(timeout)
        if due == [(VICTIM, TRAINS)]:
            again = sites[VICTIM].do(messages.TASKS[TRAINS], courier.sent[VICTIM, TRAINS])
            assert result is not None
            assert messages.take_message(again) == result.message
        return result

    courier.next_result = twice  # type: ignore[method-assign]
    assert_ends_well(cohort, courier)
    assert paused.times == 1


class NoticedLock:
    """A lock that signals when a thread meets it while it is held."""

    def __init__(self) -> None:
        self._lock, self.is_awaited = threading.Lock(), threading.Event()

    def __enter__(self) -> None:
        if not self._lock.acquire(blocking=False):
            self.is_awaited.set()
            self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def test_threads_take_turns_in_a_session(tmp_path: Path, threads: ThreadPoolExecutor) -> None:
    """By itself, without the executor around it."""
    cohort, paused = Cohort(tmp_path), Paused()
    sites = cohort.sites()
    sites[VICTIM].trainer.train = paused.train
    courier = courier_of(sites, model_with(0.25))
    answers: list[Future[bytes]] = []

    def push() -> Future[bytes]:
        session = sites[VICTIM].executor._session
        assert isinstance(session, SiteSession)
        message = messages.take_message(fobs.loads(courier.sent[VICTIM, TRAINS]))
        assert message is not None
        second = threads.submit(session.answer, message, lambda: pytest.fail("trained twice"))
        assert lock.is_awaited.wait(PATIENCE)
        answers.append(second)
        return second

    while_it_trains(courier, paused, threads, push)
    lock = NoticedLock()
    opened = sites[VICTIM].executor._open

    def open_(*arguments: Any) -> SiteSession:
        session = opened(*arguments)
        session._lock = lock  # type: ignore[assignment]
        return session

    sites[VICTIM].executor._open = open_  # type: ignore[assignment]
    assert_ends_well(cohort, courier)
    first = messages.take_message(fobs.loads(sites[VICTIM].results[list(Round).index(TRAINS)]))
    assert [second.result(PATIENCE) for second in answers] == [first]
    assert len(SITES) == len(sites)

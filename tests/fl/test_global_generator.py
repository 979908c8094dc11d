"""torch's global generator in several threads: clients do not mix their draws, and the process does not hang."""

from __future__ import annotations

import copy
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from fl.learning.cpu import seeded_global_generator
from fl.learning.settings import Local
from fl.learning.training import train
from tests.fl.runs import REPOSITORY, environment, state_bytes

SEEDS = range(6)


@pytest.mark.usefixtures("one_thread")
def test_clients_in_parallel_threads_draw_the_same_dropout_as_alone() -> None:
    images = torch.rand(200, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(200) % 10
    start = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 10))
    config = Local(epochs=3, batch_size=5, learning_rate=0.1)

    def trained(seed: int) -> dict[str, bytes]:
        model = copy.deepcopy(start)
        train(model, images, labels, config, seed)
        return state_bytes(model)

    before = torch.get_rng_state()
    alone = [trained(seed) for seed in SEEDS]
    with ThreadPoolExecutor(len(SEEDS)) as threads:
        together = list(threads.map(trained, SEEDS))
    assert together == alone
    assert torch.equal(torch.get_rng_state(), before)


def test_it_can_be_seeded_within_itself() -> None:
    """For example by a user's model that makes one more model while it trains."""
    with seeded_global_generator(1):
        first = torch.rand(3)
        with seeded_global_generator(1):
            assert torch.equal(torch.rand(3), first)
        rest = torch.rand(3)
    with seeded_global_generator(1):
        assert torch.equal(torch.rand(6), torch.cat([first, rest]))


_THREADS = """
import gc, threading, time
from fl.learning.cpu import seeded_global_generator

def work():
    for turn in range(2000):
        # Garbage is collected at another place of each turn.
        kept = [[] for _ in range(turn % 13)]
        with seeded_global_generator(turn):
            pass

gc.callbacks.append(lambda phase, info: time.sleep(1e-5))  # lets the others run
gc.set_threshold(7)
threads = [threading.Thread(target=work) for _ in range(3)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print("all have ended")
"""


@pytest.mark.slow
def test_threads_do_not_stop_each_other_when_garbage_is_collected() -> None:
    """Without the lock they do within seconds, and then the whole process hangs."""
    done = subprocess.run(  # noqa: S603 - our own interpreter
        [sys.executable, "-c", _THREADS], capture_output=True, text=True, check=True, timeout=120, cwd=REPOSITORY,
        env=environment(),
    )  # fmt: skip
    assert done.stdout == "all have ended\n"

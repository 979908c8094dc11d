"""torch's global random generator, one thread at a time.

Dropout draws from it, and so may whatever a user's model does. There is one a process: threads that seeded it side by
side would train with each other's numbers. They could stop the process, too: torch holds the generator's lock while it
makes the Python object of its state, and if Python collects garbage just then and lets another thread run, which asks
for that lock without letting go of the interpreter, neither goes on.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_TURN = threading.RLock()


@contextmanager
def seeded_global_generator(seed: int) -> Iterator[None]:
    """The generator begins at ``seed``, and afterwards goes on from where it was; other threads wait until then."""
    with _TURN, torch.random.fork_rng(devices=()):
        torch.default_generator.manual_seed(seed)
        yield

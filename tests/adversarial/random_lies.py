"""A server that lies at random, over encoded bytes to real clients, and the results of many sessions.

    python -m tests.adversarial.random_lies --sessions 2000 --front library host --seed 1
    python -m tests.adversarial.random_lies --front host --world 1/39/7/malicious/sparse

A world, one server and its clients over a few sessions, is a function of its name: the second line repeats one.
Half of a world's sessions are honest: their sums must be exact.  In honest-but-curious mode all are, since nothing is
claimed there against lies.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

from secagg import Adversary
from tests.adversarial.lies.figures import Figures, Lie
from tests.adversarial.lies.fronts import HostFront, LibraryFront
from tests.adversarial.lies.honest import play_honestly
from tests.adversarial.lies.ledger import Ledger
from tests.adversarial.lies.liar import Liar
from tests.adversarial.lies.world import World, kind_of
from tests.support.sessions import make_params

# By graph: parameters with which lies get far, and how many corrupt clients they allow in a neighbourhood.
SIZES: dict[str, list[tuple[dict[str, int], int]]] = {
    "complete": [
        ({"num_clients": 7, "threshold": 4}, 0),
        ({"num_clients": 7, "threshold": 5}, 2),
        ({"num_clients": 10, "threshold": 7}, 3),
    ],
    "sparse": [
        ({"num_clients": 40, "degree": 4, "threshold": 3}, 0),
        ({"num_clients": 40, "degree": 4, "threshold": 3}, 1),
        ({"num_clients": 60, "degree": 6, "threshold": 5}, 3),
    ],
}
# The last ones take long.
_WEIGHTS = (5, 5, 1)

SESSIONS_A_WORLD = 4

MakeFront = Callable[[Adversary, Random], Any]


def play_world(name: str, make_front: MakeFront, figures: Figures) -> int:
    """Play one server and its clients over some sessions; return the last `World.turn`.

    The name ends in the first turn, the mode, and the graph.
    """
    rng = Random(name)
    *_, turn, mode_name, graph = name.split("/")
    mode = Adversary(mode_name)
    ((numbers, most_corrupt),) = rng.choices(SIZES[graph], _WEIGHTS)
    front = make_front(mode, rng)
    sizes = front.sizes(numbers["num_clients"]) if callable(front.sizes) else front.sizes
    params = make_params(**numbers, **sizes, adversary=mode)
    corrupt = rng.sample(range(params.num_clients), rng.choice((0, most_corrupt, most_corrupt)))
    world = World(name, front, params, tuple(range(params.num_clients)), rng, figures, Ledger(corrupt), turn=int(turn))
    try:
        for _ in range(SESSIONS_A_WORLD):
            lying = world.is_lied_to and rng.random() < 0.7
            figures.sessions[f"{world.kind}: {'lying' if lying else 'honest'}"] += 1
            if lying:
                Liar(world).play()
            else:
                play_honestly(world)
        for finish in world.left_open:
            finish()
        world.check()
    finally:
        front.close()
    return world.turn


def campaign(
    make_front: MakeFront,
    *,
    sessions: int,
    seed: object,
    modes: tuple[Adversary, ...] = tuple(Adversary),
    graphs: Sequence[str] = ("complete", "sparse"),
    stop: Callable[[Figures], bool] = lambda figures: False,
) -> Figures:
    """Play ``sessions`` in worlds of four, over these modes and graphs in turn; the same seed gives the same lies."""
    figures = Figures()
    kinds = [(mode, graph) for mode in modes for graph in graphs]
    # In honest-but-curious mode only the results of honest sessions are claimed.
    kinds += [kind for kind in kinds if kind[0] is not Adversary.HONEST_BUT_CURIOUS] * 3
    world = turn = 0
    while sum(figures.sessions.values()) < sessions and not stop(figures):
        mode, graph = kinds[world % len(kinds)]
        turn = play_world(f"{seed}/{world}/{turn}/{mode.value}/{graph}", make_front, figures)
        world += 1
    return figures


THRIFTY = ("complete", "complete", "complete", "sparse")
"""Graphs for slow fronts: a session on a sparse graph has many clients."""


def played(
    make_front: MakeFront,
    *,
    sessions: int,
    seed: object,
    without: Collection[Lie] = (),
    graphs: Sequence[str] = ("complete", "sparse"),
) -> Figures:
    """Play until each kind of lie was told and each kind of session ended with a sum.

    Args:
        without: lies that the front does not allow.
    """

    def enough(figures: Figures) -> bool:
        is_done = not figures.untold(without) and figures.completed.keys() == _kinds()
        return is_done and sum(figures.sessions.values()) >= sessions

    return campaign(make_front, sessions=10 * sessions, seed=seed, graphs=graphs, stop=enough)


def assert_held(figures: Figures, without: Collection[Lie] = ()) -> None:
    """Assert that nothing forbidden happened, although it was tried."""
    sys.stdout.write(f"{figures}\n")
    assert figures.broken == {name: [] for name in figures.broken}
    assert figures.untold(without) == set()
    assert figures.completed.keys() == _kinds(), "honest sessions of every kind end with the exact sum"
    assert figures.events["answers"] > sum(figures.sessions.values()), (
        "a client that answers nothing is safe, and useless"
    )


def _kinds() -> set[str]:
    return {kind_of(mode, graph) for mode in Adversary for graph in SIZES}


def library(mode: Adversary, rng: Random) -> LibraryFront:
    """Return a front of bare machines (a `MakeFront`)."""
    return LibraryFront(str(rng.random()))


def hosts(folder: Path) -> MakeFront:
    """Return a front of hosts (a `MakeFront`); journals are kept in ``folder``."""
    return lambda mode, rng: HostFront(mode, folder, rng)


def main(fronts: Mapping[str, Callable[[Path], MakeFront]], arguments: list[str] | None = None) -> int:
    """Run a campaign for each front, and print its figures; return 1 if anything forbidden happened."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=int, default=1000)
    parser.add_argument("--seed", default="0")
    parser.add_argument("--world", help="play this one alone")
    parser.add_argument("--front", nargs="+", choices=list(fronts), default=list(fronts))
    chosen = parser.parse_args(arguments)
    clean = True
    for name in chosen.front:
        with tempfile.TemporaryDirectory() as folder:
            if chosen.world is None:
                figures = campaign(fronts[name](Path(folder)), sessions=chosen.sessions, seed=chosen.seed)
            else:
                play_world(chosen.world, fronts[name](Path(folder)), figures := Figures())
        sys.stdout.write(f"{name}, seed {chosen.seed!r}: {figures}\n\n")
        for found in figures.broken.values():
            sys.stdout.writelines(f"  {what}\n" for what in found[:20])
        clean = clean and figures.is_clean
    return 0 if clean else 1


if __name__ == "__main__":
    sys.exit(main({"library": lambda folder: library, "host": hosts}))

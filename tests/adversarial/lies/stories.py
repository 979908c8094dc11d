"""A lying server's story for each client: its neighbourhood, and which members shared keys and survived.

Two kinds of stories aim at a few clients whose sum the server wants alone.  The mask keys of their other neighbours
must come out, so these neighbours are told that all is well, and their own neighbours that they vanished.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random

from secagg import Parameters


@dataclass
class Story:
    """By client: its neighbours, those of them that did not share keys, and those that vanished later.

    Attributes:
        twice: clients that play a first run, up to their signatures, in which all is well.
    """

    neighbors: dict[int, set[int]]
    unshared: dict[int, set[int]] = field(default_factory=dict)
    vanished: dict[int, set[int]] = field(default_factory=dict)
    twice: frozenset[int] = frozenset()


def graph(params: Parameters, clients: Sequence[int], rng: Random) -> dict[int, set[int]]:
    """Return all neighbourhoods of an honest server's graph; each client is in its own."""
    ring = rng.sample(list(clients), len(clients))
    if len(ring) <= params.degree + 1:
        return {client_id: set(ring) for client_id in ring}
    reach = params.degree // 2
    return {
        client_id: {ring[(at + step) % len(ring)] for step in range(-reach, reach + 1)}
        for at, client_id in enumerate(ring)
    }


def true_story(params: Parameters, clients: Sequence[int], rng: Random) -> Story:
    """Return an honest server's story; the lies are about other things then."""
    return Story(graph(params, clients, rng))


def any_story(params: Parameters, clients: Sequence[int], rng: Random) -> Story:
    """Return one random story for all clients, or one for each."""
    story = Story(graph(params, clients, rng))
    room = len(next(iter(story.neighbors.values()))) - params.quorum
    unshared = rng.randint(0, room)
    for told, most in ((story.unshared, unshared), (story.vanished, room - unshared)):
        one_for_all = rng.random() < 0.5
        gone = set(rng.sample(list(clients), most))
        for client_id, neighbors in story.neighbors.items():
            mine = gone if one_for_all else set(rng.sample(sorted(neighbors), rng.randint(0, most)))
            told[client_id] = mine - {client_id}
    return story


def divided(params: Parameters, clients: Sequence[int], rng: Random) -> Story:
    """Return a story on a proper graph: a few clients' neighbours are reported vanished to enough of their neighbours.

    Greedily: the client that can still be told of the most dropouts is next. A client refuses a list below the quorum.
    """
    story = Story(graph(params, clients, rng))
    victim = rng.choice(list(clients))
    others = sorted(story.neighbors[victim] - {victim})
    targets = {victim, *rng.sample(others, rng.randint(0, min(len(others), params.threshold - 1)))}
    room = {client_id: len(peers) - params.quorum for client_id, peers in story.neighbors.items()}
    for target in targets:
        strangers = sorted(story.neighbors[target] - targets)
        story.unshared[target] = set(rng.sample(strangers, rng.randint(0, min(len(strangers), room[target]))))
        room[target] -= len(story.unshared[target])
    cut = set().union(*(story.neighbors[target] - story.unshared[target] for target in targets)) - targets
    for neighbor in rng.sample(sorted(cut), len(cut)):
        holders = sorted(story.neighbors[neighbor] - {neighbor}, key=lambda peer: (-room[peer], rng.random()))
        for holder in holders[: params.threshold + rng.randint(0, 1)]:
            if room[holder] > 0:
                story.vanished.setdefault(holder, set()).add(neighbor)
                room[holder] -= 1
    return story


def seated(params: Parameters, clients: Sequence[int], corrupt: frozenset[int], rng: Random) -> Story | None:
    """Return a story on a chosen graph: each neighbour of the few has its own circle of neighbours.

    All or some of the circle hear that it vanished; they may have played a run before in which it survived.
    None if there are not enough clients.
    """
    size = params.degree + 1
    least = 2 * params.threshold - params.degree + 1
    honest = rng.sample([client_id for client_id in clients if client_id not in corrupt], len(clients) - len(corrupt))
    targets = [honest.pop() for _ in range(rng.randint(1, min(least, size - 2)))]
    shared = list(corrupt)[: rng.choice((0, 1, 1, 1))]
    outside = size - len(targets) - len(shared)
    if len(honest) < outside * size * len(targets):
        return None
    story = Story({client_id: {client_id} for client_id in shared})
    strangers = min(rng.choice((0, 0, 1)), outside, size - params.quorum)
    believers = rng.choice((0, 0, 0, 1, size))
    twice = rng.random() < 0.5
    for target in targets:
        story.neighbors[target] = {*targets, *shared}
        for number in range(outside):
            neighbor = honest.pop()
            circle = [honest.pop() for _ in range(size - 1)]
            story.neighbors[target].add(neighbor)
            story.neighbors[neighbor] = {neighbor, target, *circle[: size - 2]}
            story.neighbors |= {client_id: {neighbor, *circle} for client_id in circle}
            if number < strangers:
                story.unshared.setdefault(target, set()).add(neighbor)
            else:
                story.vanished |= {client_id: {neighbor} for client_id in circle[believers:]}
                story.twice |= frozenset(circle) if twice else frozenset()
    for client_id in shared:
        # A corrupt client's message does not matter, but its shares must be listed as dealt.
        story.neighbors[client_id] = {client_id, *targets, *honest[: size - len(targets) - 1]}
    return story

"""Sessions of a server that does not lie: messages are lost, arrive late and in any order, and clients crash."""

from typing import Any

from secagg import Aborted, ClientDropped, Completed, Send, Server, UnmaskReady
from secagg.messages import AdvertiseKeys
from tests.adversarial.lies.fronts import who
from tests.adversarial.lies.ledger import Run
from tests.adversarial.lies.world import World
from tests.support.sessions import exact_sum


def play_honestly(world: World) -> None:
    """Play one session; a sum that is not exact is counted."""
    rng, params, terms = world.rng, world.params, world.new_terms()
    few = min(len(world.clients), params.num_clients, max(params.degree + rng.randint(1, 5), params.quorum))
    clients = rng.sample(world.clients, few)
    directory = {name: value for name, value in who(0, params).items() if name == "directory"}
    context = world.front.context(terms)
    server = Server(params, clients, context=context, nonce=terms.nonce, entropy=rng.randbytes, **directory)
    loss = rng.choice((0.0, 0.0, 0.03, 0.1))
    runs: dict[int, Run] = {}
    said: list[tuple[int, Any]] = []
    for client_id in clients:
        if (run := world.open(client_id, terms)) is not None:
            runs[client_id] = run
            said.append((client_id, run.heard[AdvertiseKeys]))
    while True:
        rng.shuffle(said)
        for client_id, message in said:
            if rng.random() < loss:
                world.figures.events["lost messages"] += 1
            else:
                server.receive(client_id, message)
        letters: dict[int, Any] = {}
        end: Any = None
        for event in server.close_round():
            match event:
                case Send(to=int() as client_id):
                    letters[client_id] = event.message
                case UnmaskReady():
                    (end,) = server.finish(event.job.run())
                case Aborted():
                    end = event
                case ClientDropped():
                    world.figures.events["clients dropped"] += 1
        if end is not None:
            _count(world, end, runs)
            return
        said = []
        for client_id in rng.sample(sorted(letters), len(letters)):
            if rng.random() < loss / 2:
                world.figures.events["lost messages"] += 1
                continue
            if rng.random() < 0.02:
                world.crash(runs[client_id])
            answer = world.tell(runs[client_id], letters[client_id])
            if answer is not None:
                said.append((client_id, answer))


def _count(world: World, end: Completed | Aborted, runs: dict[int, Run]) -> None:
    figures = world.figures
    if isinstance(end, Aborted):
        figures.aborted[f"{world.kind}: {end.reason.name}"] += 1
        return
    for run in runs.values():
        if run.refused is None and hasattr(run.line, "end"):
            run.line.end(len(end.included))
    inputs = [runs[client_id].line.input for client_id in end.included]
    if end.sum.tolist() == exact_sum(world.params, inputs):
        figures.completed[world.kind] += 1
    else:
        figures.wrong_sums.append(f"{world.name}: of clients {end.included}")

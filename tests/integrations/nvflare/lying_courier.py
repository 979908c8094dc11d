"""NVFlare's sites as a front for a server that lies at random: every task and every result over NVFlare's own encoding.

python -m tests.integrations.nvflare.lying_courier --sessions 500
"""

import logging
import sys
from collections.abc import Callable, Hashable, Sequence
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from random import Random
from typing import Any
from unittest.mock import patch
from uuid import uuid4

import numpy as np
from nvflare.apis.dxo import MetaKey
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from nvflare.app_common.abstract.fl_model import FLModel
from nvflare.app_common.utils.fl_model_utils import FLModelUtils
from nvflare.fuel.utils import fobs

from fl.aggregation.scales import Scales
from fl.integrations.nvflare import SiteIdentities, executor, messages
from fl.integrations.nvflare.announcement import TaskAnnouncement
from fl.integrations.nvflare.model_encoding import ModelEncoding, as_model, digest
from secagg import Adversary, Client, Identity, Round, decode_server_message
from secagg.identity import KeyDirectory
from secagg.messages import ConsistencyProof, PeerKeys, PeerShares, SurvivorList
from tests.adversarial.lies.figures import Lie
from tests.adversarial.lies.fronts import SmallGraphs, Terms
from tests.adversarial.lies.ledger import Line, Refused
from tests.adversarial.random_lies import MakeFront, main
from tests.integrations.nvflare.loopback import JOB, Site
from tests.support.sessions import directory_of, identity_of


def encoding_of(num_sites: int, *, measures: bool) -> ModelEncoding:
    """Return an encoding of the model's one entry."""
    scales = None if measures else Scales((1.0,), 8)
    return ModelEncoding(num_sites=num_sites, scales=scales, value_bits=8, metrics=(), metric_bound=1.0)


@cache
def model_size(num_sites: int) -> int:
    """Return the elements with which update and measuring vectors have one length: a server's sessions share it."""
    measured, (first, *_) = (
        [encoding_of(num_sites, measures=measures).vector_length({"w": np.zeros(size)}) for size in (1, 2)]
        for measures in (True, False)
    )
    return 1 + measured[0] - first


TASK_OF = {
    PeerKeys: Round.SHARE_KEYS,
    PeerShares: Round.MASKED_INPUT_COLLECTION,
    SurvivorList: Round.CONSISTENCY_CHECK,
    ConsistencyProof: Round.UNMASKING,
}


def round_of(number: int) -> tuple[int, bool]:
    """Return the round of a session with this number, and whether it measures: each round has two, of one model.

    So a server that lies measures twice, measures after the update, and changes the model between the two.
    """
    return number // 2, number % 2 == 0


def model_of(terms: Terms) -> FLModel:
    """Return the model that the sites are to train."""
    round_, _ = round_of(terms.number)
    # Elsewhere sessions have their own models, as long as their nonce; here any other model is a lie.
    seed = round_ % 256 if len(terms.model) == len(terms.nonce) else 255.5
    entry = np.full(model_size(terms.params.num_clients), seed / 256, dtype=np.float32)
    return FLModel(params={"w": entry}, meta={"lr": 0.5}, current_round=round_)


def announcement_of(terms: Terms) -> TaskAnnouncement:
    arrays = as_model(model_of(terms).params)
    round_, measures = round_of(terms.number)
    return TaskAnnouncement(
        job_id=JOB, round=round_, start_round=0, total_rounds=1000, meta=(("lr", 0.5),),
        sites=tuple(map(name_of, range(terms.params.num_clients))), params=terms.params,
        encoding=encoding_of(terms.params.num_clients, measures=measures),
        model_digest=digest(arrays), nonce=terms.nonce,
    )  # fmt: skip


def name_of(number: int) -> str:
    """Return a name; names ascend with the numbers."""
    return f"site-{number:02}"


class Identities(SiteIdentities):
    """All sites' identities, as the tests know them."""

    def identity(self, site: str, fl_ctx: FLContext) -> Identity:
        return identity_of(int(site[-2:]))

    def directory(self, sites: Sequence[str], fl_ctx: FLContext) -> KeyDirectory:
        return directory_of(range(len(sites)))


class NVFlareLine:
    """One session of one site, as the server's tasks drive it."""

    def __init__(self, front: "NVFlareFront", number: int, terms: Terms) -> None:
        self._front, self._number, self._params = front, number, terms.params
        self.model = model_of(terms)
        self.input: list[int] | None = None
        self.basis: Hashable = None
        self._last: tuple[Round, bytes] | None = None
        self.twists: dict[Lie, Callable[[], None]] = {
            Lie.OTHER_CONTENT: self._other_model,
            Lie.OTHER_SETTINGS: self._other_meta,
        }

    def open(self, announcement: TaskAnnouncement) -> bytes:
        return self._do(Round.ADVERTISE_KEYS, fobs.dumps(messages.announcing(announcement.to_bytes())))

    def tell(self, data: bytes, *, again: bool = False) -> bytes:
        return self._do(*self._task(data))

    def tell_both(self, first: bytes, second: bytes) -> list[bytes | None]:
        """Push the second task while the first one is in progress."""
        front = self._front
        answers: list[bytes | None] = []

        def push() -> None:
            try:
                answers.append(self._do(*self._task(second)))
            except Refused:
                answers.append(None)

        front.meanwhile = push
        try:
            answers.append(self.tell(first))
        except Refused:
            answers.append(None)
        front.meanwhile = None
        return (answers if len(answers) == 2 else [None, *answers])[::-1]

    def crash(self) -> bytes | None:
        """Let the server miss the last result and give the task again; or restart the site's process."""
        if self._front.rng.random() < 0.5 or self._last is None:
            self._front.start(self._number)
            return None
        return self._do(*self._last)

    def _task(self, data: bytes) -> tuple[Round, bytes]:
        """Return the task that carries a message; one that cannot be read comes in any task."""
        try:
            round_ = TASK_OF[type(decode_server_message(data, self._params))]
        except Exception:  # noqa: BLE001 - whatever these bytes are
            round_ = Round.UNMASKING
        trains = round_ is Round.MASKED_INPUT_COLLECTION
        task = FLModelUtils.to_shareable(self.model) if trains else Shareable()
        return round_, fobs.dumps(messages.put_message(task, data))

    def _do(self, round_: Round, task: bytes) -> bytes:
        front = self._front
        front.given, front.reasons[:] = None, []
        result = messages.take_message(front.sites[self._number].do(messages.TASKS[round_], task))
        if result is None:
            raise Refused(front.reasons[-1] if front.reasons else "refused")
        if front.given is not None:
            # A measured update is kept: it belongs to the content seen then.
            self.input, self.basis = front.given, front.seen[self._number]
        self._last = round_, task
        return result

    # --- Other lies of the server -------------------------------------------------------------------------------------

    def _other_model(self) -> None:
        self.model.params = {"w": np.zeros_like(self.model.params["w"])}

    def _other_meta(self) -> None:
        """Change the learning rate of this site alone, and the numbers of the rounds."""
        self.model.meta, self.model.total_rounds = {"lr": 0.25}, 3


class NVFlareFront:
    """Sites 0, 1, ..., each with its own folder, which holds its record."""

    answers_once = True
    gives_numbers = False

    def __init__(self, mode: Adversary, folder: Path, rng: Random) -> None:
        self.rng, self._mode, self._folder = rng, mode, folder / str(uuid4())
        self.sites: dict[int, Site] = {}
        self.given: list[int] | None = None
        self.seen: dict[int, Hashable] = {}
        self.reasons: list[str] = []
        self.meanwhile: Callable[[], None] | None = None
        self._patches = ExitStack()
        submit, receive = Client.submit_input, Client.receive

        def watched_input(client: Client, vector: Any) -> Any:
            self.given = vector.tolist()
            return submit(client, vector)

        def watched_receive(client: Client, message: Any) -> Any:
            if self.meanwhile is not None:
                push, self.meanwhile = self.meanwhile, None
                push()
            return receive(client, message)

        def note(text: str, *values: Any) -> None:
            error = values[-1] if values else None
            rule = getattr(error, "rule", None)
            self.reasons.append(type(error).__name__ if rule is None else rule.name)

        self._patches.enter_context(patch.object(Client, "submit_input", watched_input))
        self._patches.enter_context(patch.object(Client, "receive", watched_receive))
        self._patches.enter_context(patch.object(executor._LOG, "error", note))

    @staticmethod
    def sizes(num_clients: int) -> dict[str, int]:
        lengths = {
            encoding_of(num_clients, measures=measures).vector_length({"w": np.zeros(model_size(num_clients))})
            for measures in (True, False)
        }
        (length,) = lengths
        return {"vector_length": length, "value_bits": 8}

    def start(self, number: int) -> None:
        """Restart the site's process; its files stay on the disk."""
        components, arguments = {}, {}
        if self._mode is Adversary.MALICIOUS:
            components, arguments = {"ids": Identities()}, {"identity_id": "ids"}
        site = Site(
            name_of(number), lambda model: self._train(number, model), self._folder,
            components=components, adversary=self._mode.value, **arguments,
        )  # fmt: skip
        site.executor._policy = SmallGraphs(adversary=self._mode)
        self.sites[number] = site

    def _train(self, number: int, model: FLModel) -> FLModel:
        """Return an update without information; for every request, the site does the same again."""
        received = as_model(model.params)["w"]
        meta = tuple(sorted((model.meta or {}).items()))
        self.seen[number] = received.tobytes(), meta, model.current_round, model.start_round, model.total_rounds
        change = np.random.default_rng((number, model.current_round)).uniform(-0.9, 0.9, received.shape)
        return FLModel(
            params={"w": (received + change).astype(np.float32)},
            meta={MetaKey.NUM_STEPS_CURRENT_ROUND: 1 + number % 8},
        )

    def open(self, client_id: int, owner: int, terms: Terms) -> tuple[Line, bytes]:
        if owner not in self.sites:
            self.start(owner)
        line = NVFlareLine(self, owner, terms)
        return line, line.open(announcement_of(terms))

    def context(self, terms: Terms) -> bytes:
        return announcement_of(terms).to_bytes()

    def same_input(self, owner: int, terms: Terms) -> tuple[int, int]:
        return owner, terms.number

    def close(self) -> None:
        self._patches.close()


def nvflare(folder: Path) -> MakeFront:
    """Return a front of sites (a `MakeFront`)."""
    return lambda mode, rng: NVFlareFront(mode, folder, rng)


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    sys.exit(main({"nvflare": nvflare}))

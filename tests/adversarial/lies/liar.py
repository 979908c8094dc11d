"""A server that plays one session with lies: those of a story, and others drawn for each message."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from secagg.messages import (
    AdvertiseKeys,
    ConsistencyCheck,
    ConsistencyProof,
    MaskedInput,
    PeerKeys,
    PeerShares,
    ShareKeys,
    SurvivorList,
)
from secagg.primitives.signing import SIGNATURE_BYTES
from secagg.session import session_id
from secagg.sharing import ENCRYPTED_SHARES_BYTES
from tests.adversarial.lies.figures import Lie
from tests.adversarial.lies.forgeries import (
    Rules,
    Vote,
    broken_rules,
    consistency_proof,
    corrupt_vote,
    peer_keys,
    votes_of,
)
from tests.adversarial.lies.fronts import Terms
from tests.adversarial.lies.ledger import Run
from tests.adversarial.lies.noise import FAVORITES, Noise
from tests.adversarial.lies.stories import Story, any_story, divided, seated, true_story
from tests.adversarial.lies.world import World

# The message that precedes each message.
DUE = {PeerKeys: AdvertiseKeys, PeerShares: ShareKeys, SurvivorList: MaskedInput, ConsistencyProof: ConsistencyCheck}

# Rules that the server assumes unchecked; it satisfies the checked rules as well as it can.
_HOPES = (Rules.NONE, Rules.NONE, Rules.RECEIVER, Rules.SIGNER, Rules.SIGNER, Rules.SIGNER, Rules.OTHERS, Rules.ALL)


class Liar:
    """One session of a lying server."""

    def __init__(self, world: World) -> None:
        self.world, self.rng = world, world.rng
        self.terms = self._terms()
        # The rate of lies beside the story: mostly in one round, so that the session reaches it.
        self.noise = self.rng.choice((0.0, 0.03, 0.15, 0.15))
        self.favorite, focus = FAVORITES[world.turn % len(FAVORITES)]
        self.focus = focus or self.rng.choice(list(DUE))
        world.turn += self.noise > 0.1
        # The rate of the front's own lies, before clients train.
        self.twists = self.rng.choice((0.0, 0.0, 0.0, 0.3))
        self.hopes = self.rng.choice(_HOPES)
        # The clients whose other secret it wants, and how often it asks for it.
        self.victim, self.greed = self.rng.choice(world.clients), self.rng.choice((0.0, 0.0, 0.05, 1.0))
        self.others, self.mixes = self.rng.choice((0.0, 0.0, 0.0, 0.3)), self.rng.random() < 0.3
        self.forges = self.rng.random() < 0.3
        self.current: dict[int, Run] = {}
        self._noise = Noise(self)

    def _terms(self) -> Terms:
        world, rng = self.world, self.rng
        if world.terms and rng.random() < 0.2:
            self.count(Lie.SAME_NONCE)
            return rng.choice(world.terms)
        if world.terms and rng.random() < 0.2:
            self.count(Lie.REPEATED_ROUND)
            return replace(world.new_terms(), number=rng.choice(world.terms).number)
        return world.new_terms()

    def count(self, lie: Lie) -> None:
        self.world.figures.lies[lie] += 1

    def play(self) -> None:
        """Play the session."""
        world, rng = self.world, self.rng
        story = None
        # A lie in a late round needs a session that gets there.
        noisy = self.noise > 0.1
        if not world.params.is_complete and rng.random() < (0.2 if noisy else 0.8):
            story = seated(world.params, world.clients, world.ledger.corrupt, rng)
        if story is None:
            few = rng.sample(world.clients, min(len(world.clients), world.params.degree + rng.randint(1, 6)))
            tell = true_story if noisy else rng.choice((true_story, any_story, divided))
            story = tell(world.params, few, rng)
        self._open(story.neighbors.keys() - story.twice)
        if story.twice:
            self._open(story.twice)
            first = Story(story.neighbors)
            self._play([self.current[i] for i in story.twice if i in self.current], first, last=SurvivorList)
            self.count(Lie.SAME_NONCE)
            self._open(story.twice)
        runs = list(self.current.values())
        if rng.random() < 0.15:
            self.count(Lie.TWO_AT_ONCE)
            self._play(runs, story, last=rng.choice((PeerKeys, PeerShares, SurvivorList)))
            world.left_open.append(lambda: self._play(runs, story))
        else:
            self._play(runs, story)
        if world.left_open and rng.random() < 0.5:
            world.left_open.pop(rng.randrange(len(world.left_open)))()

    def _open(self, clients: Iterable[int]) -> None:
        for client_id in sorted(clients):
            terms = self.terms
            if self.rng.random() < self.others:
                self.count(Lie.OTHER_MODEL)
                terms = replace(terms, model=b"another model")
            elif self.rng.random() < self.noise / 4:
                self.count(Lie.OTHER_PARAMETERS)
                terms = replace(terms, params=replace(terms.params, vector_length=terms.params.vector_length + 1))
            run = self._open_already(client_id) if terms is self.terms else None
            run = run or self.world.open(client_id, terms, self._other_owner(client_id))
            if run is not None and self.rng.random() < self.noise * (2 if self.favorite is Lie.OLD_KEYS else 0.25):
                self.count(Lie.SAME_NONCE)
                run = self.rng.choice((run, self.world.open(client_id, terms)))
            # A client that was offered another session is of no use in this one, if clients check anything.
            if run is not None and (terms is self.terms or self.mixes):
                self.current[client_id] = run

    def _other_owner(self, client_id: int) -> int | None:
        """Return another client for this number, where the server assigns numbers."""
        if not self.world.front.gives_numbers or self.rng.random() >= self.noise / 4:
            return None
        self.count(Lie.OTHER_NUMBER)
        return self.rng.choice([other for other in self.world.clients if other not in self.world.ledger.corrupt])

    def _open_already(self, client_id: int) -> Run | None:
        """Return a run that the client began when these terms were offered before."""
        session = session_id(self.terms.params, nonce=self.terms.nonce, context=self.world.front.context(self.terms))
        runs = [run for run in self.world.runs_of(session) if run.client_id == client_id and run.refused is None]
        return runs[-1] if runs and client_id not in self.current and self.rng.random() < 0.3 else None

    def strays(self, kind: type) -> bool:
        """Return whether a message of this kind deviates from the story."""
        return self.rng.random() < (3 * self.noise if kind is self.focus else self.noise / 5)

    def _play(self, runs: list[Run], story: Story, last: type = ConsistencyProof) -> None:
        """Tell these runs the story, up to this kind of message."""
        for kind in DUE:
            for run in self.rng.sample(runs, len(runs)):
                if not self._is_due(run, kind):
                    continue
                if self.rng.random() < 0.01:
                    self.world.crash(run)
                if self.rng.random() < self.noise / 10:
                    self.world.offer_another(run)
                self._noise.send(run, self.message(run, kind, story), story)
            if kind is last:
                return

    @staticmethod
    def _is_due(run: Run, kind: type) -> bool:
        return run.refused is None and kind not in run.told and DUE[kind] in run.heard

    # --- The story ----------------------------------------------------------------------------------------------------

    def message(self, run: Run, kind: type, story: Story) -> Any:
        """Return the story's next message for this run."""
        tell: Callable[[Run, Story], Any] = {
            PeerKeys: self._peer_keys,
            PeerShares: self.peer_shares,
            SurvivorList: self._survivor_list,
            ConsistencyProof: self._consistency_proof,
        }[kind]
        return tell(run, story)

    def _peer_keys(self, run: Run, story: Story) -> PeerKeys:
        peers = [self.current[i] for i in story.neighbors[run.client_id] - {run.client_id} if i in self.current]
        return peer_keys(run.session_id, [run, *peers])

    def peer_shares(self, run: Run, story: Story) -> PeerShares:
        """Return the shares by the story; a share is made up if a flagged peer dealt none to this run."""
        unshared = story.unshared.get(run.client_id, set())
        if unshared & set(run.listed):
            self.count(Lie.FALSE_SHARERS)
        flags = tuple(peer_id == run.client_id or peer_id not in unshared for peer_id in run.listed)
        items = []
        for peer_id, flag in zip(run.listed, flags, strict=True):
            if flag and peer_id != run.client_id:
                item = self._dealt(peer_id, run)
                if item is None:
                    self.count(Lie.WRONG_SHARES)
                items.append(item or self.rng.randbytes(ENCRYPTED_SHARES_BYTES))
        return PeerShares(run.session_id, flags, b"".join(items))

    def _dealt(self, owner_id: int, run: Run) -> bytes | None:
        owners = [owner for owner in self.world.runs_of(run.session_id) if owner.client_id == owner_id]
        return next((item for owner in reversed(owners) if (item := self.world.ledger.dealt(owner, run))), None)

    def _survivor_list(self, run: Run, story: Story) -> SurvivorList:
        vanished = story.vanished.get(run.client_id, set())
        if vanished & set(run.listed):
            self.count(Lie.FALSE_SURVIVORS)
        shared = zip(run.listed, run.told[PeerShares].shared, strict=True)
        return SurvivorList(run.session_id, tuple(flag and peer_id not in vanished for peer_id, flag in shared))

    def _consistency_proof(self, run: Run, story: Story) -> ConsistencyProof:
        return consistency_proof(run, self.votes(run, self.hopes))

    def votes(self, run: Run, hopes: Rules) -> dict[int, Vote]:
        """Return for each survivor the best signature that breaks only rules assumed unchecked."""
        runs = self.world.runs_of(run.session_id)
        chosen: dict[int, Vote] = {}
        spare: dict[int, Vote] = {}
        flags = zip(run.listed, run.told[SurvivorList].survivors, strict=True)
        survivors = [peer_id for peer_id, survives in flags if survives and peer_id != run.client_id]
        for peer_id in survivors:
            corrupt = [peer for peer in runs if peer.client_id == peer_id and peer.is_corrupt]
            if corrupt:
                chosen[peer_id] = corrupt_vote(run, corrupt[-1])
                continue
            votes = [(broken_rules(run, peer_id, vote), vote) for vote in votes_of(peer_id, runs)]
            hoped = [(broken, vote) for broken, vote in votes if broken & ~hopes == Rules.NONE]
            if hoped:
                broken, vote = min(hoped, key=lambda item: item[0].value)
                (chosen if broken is Rules.NONE else spare)[peer_id] = vote
        # A message that breaks a rule is sent only if nothing can be lost.
        for peer_id in list(spare)[: max(0, run.params.quorum - 1 - len(chosen))]:
            chosen[peer_id] = spare[peer_id]
            self.count(Lie.OLD_SIGNATURES if spare[peer_id].is_old else Lie.OTHER_VIEWS)
        if len(chosen) + 1 < run.params.quorum and self.forges:
            self.count(Lie.FORGED_SIGNATURES)
            made_up = Vote(self.rng.randbytes(SIGNATURE_BYTES), tuple(run.members()))
            chosen = {peer_id: chosen.get(peer_id, made_up) for peer_id in survivors}
        return chosen

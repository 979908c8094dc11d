"""Lies drawn for a single message, beside those of its story."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from secagg import encode
from secagg._client.neighborhood import split
from secagg.masking import mask_secret_key
from secagg.messages import ConsistencyCheck, ConsistencyProof, PeerKeys, PeerShares, SurvivorList, UnmaskingShares
from secagg.sharing import ENCRYPTED_SHARES_BYTES
from tests.adversarial.lies.figures import Lie
from tests.adversarial.lies.forgeries import (
    Rules,
    consistency_proof,
    forged,
    peer_keys,
    scrambled,
    votes_of,
    with_key,
)
from tests.adversarial.lies.ledger import Run
from tests.adversarial.lies.stories import Story

if TYPE_CHECKING:
    from tests.adversarial.lies.liar import Liar

# By the kind of message that carries them; the last ones in any. The method of a lie has its name.
LIES: dict[type, tuple[Lie, ...]] = {
    PeerKeys: (Lie.OTHER_NEIGHBORS, Lie.LEFT_OUT, Lie.MADE_KEYS, Lie.OLD_KEYS, Lie.FOREIGN_KEYS),
    PeerShares: (Lie.FALSE_SHARERS, Lie.WRONG_SHARES),
    SurvivorList: (Lie.FALSE_SURVIVORS,),
    ConsistencyProof: (Lie.OTHER_VIEWS, Lie.OLD_SIGNATURES, Lie.FORGED_SIGNATURES, Lie.SCRAMBLED_VIEWS),
}
IN_ANY = (Lie.OTHER_SESSION, Lie.DISGUISED, Lie.ANOTHERS, Lie.OUT_OF_ORDER, Lie.BAD_BYTES)

FAVORITES = [(lie, kind) for kind, lies in LIES.items() for lie in lies] + [(lie, None) for lie in IN_ANY]
"""Each lie, with the kind of message for it if there is only one."""


class Noise:
    """A sender of the true messages to the runs of a session, or of others in their place."""

    def __init__(self, liar: "Liar") -> None:
        self.liar, self.world, self.rng = liar, liar.world, liar.rng

    def send(self, run: Run, message: Any, story: Story) -> None:
        """Send a run this message, or another one."""
        said = message
        if self.liar.strays(type(message)):
            lies = LIES[type(message)] + IN_ANY
            favorite = self.liar.favorite
            lie = favorite if favorite in lies and self.rng.random() < 0.7 else self.rng.choice(lies)
            # None: the server lacks what it needs for this lie.
            if (other := getattr(self, f"_{lie.name.lower()}")(run, message, story)) is not None:
                self.liar.count(lie)
                said = other
        if isinstance(message, PeerShares) and self.rng.random() < self.liar.twists:
            self._twist(run)
        if hasattr(run.line, "tell_both") and self.rng.random() < self.liar.noise / 8:
            self.world.tell_both(run, message, self._other_request(run, message, story))
            return
        answer = self.world.tell(run, said)
        if run.refused is None and self.rng.random() < self.liar.noise / 8:
            self.liar.count(Lie.TWICE)
            self.world.tell(run, said, again=self.rng.random() < 0.5)
        asks_after = UnmaskingShares if self.rng.random() < 0.9 else ConsistencyCheck
        if isinstance(answer, asks_after) and self.rng.random() < self.liar.greed:
            self._second_request(run)

    def _twist(self, run: Run) -> None:
        """Lie about what else the front has."""
        twists = getattr(run.line, "twists", {})
        if twists and run.refused is None:
            lie = self.rng.choice(list(twists))
            self.liar.count(lie)
            twists[lie]()

    def _other_request(self, run: Run, message: Any, story: Story) -> Any:
        """Send another message of the same kind that the client could accept as well."""
        if isinstance(message, PeerShares):
            return self._false_sharers(run, message, story)
        if isinstance(message, SurvivorList):
            return self._false_survivors(run, message, story)
        if isinstance(message, ConsistencyProof):
            return self._other_views(run, message, story)
        return self._other_neighbors(run, message, story)

    def _second_request(self, run: Run) -> None:
        """Ask for another client's second secret; or ask a client that forgets for another answer."""
        if self.rng.random() < 0.3:
            self.world.crash(run)
        self.liar.count(Lie.SECOND_REQUEST)
        flags = list(run.told[SurvivorList].survivors)
        victim = self.liar.victim
        at = run.listed.index(victim) if victim in run.listed else self.rng.randrange(len(flags))
        flags[at] = not flags[at]
        self.world.tell(run, SurvivorList(run.session_id, tuple(flags)), again=self.rng.random() < 0.3)
        if ConsistencyProof in run.told:
            self.world.tell(run, run.told[ConsistencyProof])

    # --- Keys ---------------------------------------------------------------------------------------------------------

    def _other_neighbors(self, run: Run, message: PeerKeys, story: Story) -> PeerKeys:
        """Put another client in a neighbour's place."""
        return self._neighbors(run, message, self.rng.choice(sorted(self.liar.current)))

    def _left_out(self, run: Run, message: PeerKeys, story: Story) -> PeerKeys:
        return self._neighbors(run, message, run.client_id)

    def _neighbors(self, run: Run, message: PeerKeys, other: int) -> PeerKeys:
        """Return the list without one of the neighbours, and with another client."""
        current = {**self.liar.current, run.client_id: run}
        ids = [peer_id for peer_id in message.client_ids if peer_id in current and peer_id != run.client_id]
        if ids:
            ids.remove(self.rng.choice(ids))
        return peer_keys(run.session_id, [current[peer_id] for peer_id in {*ids, other, run.client_id}])

    def _made_keys(self, run: Run, message: PeerKeys, story: Story) -> PeerKeys:
        """Use a mask key that the server knows; it cannot sign it."""
        peer_id = self.rng.choice(message.client_ids)
        key = mask_secret_key(self.rng.randbytes(16), run.session_id, peer_id)
        self.world.ledger.own_key(key)
        return with_key(message, peer_id, "mask_public_keys", key.public_key())

    def _old_keys(self, run: Run, message: PeerKeys, story: Story) -> PeerKeys | None:
        """Use the keys of a run that is not the client's last one in this session."""
        runs = self.world.runs_of(run.session_id)
        return self._keys_of(message, [other for other in runs if self.liar.current.get(other.client_id) is not other])

    def _foreign_keys(self, run: Run, message: PeerKeys, story: Story) -> PeerKeys | None:
        return self._keys_of(message, self._elsewhere(run))

    def _keys_of(self, message: PeerKeys, others: list[Run]) -> PeerKeys | None:
        """Return the list with the keys of one of these runs in its client's place or another place."""
        if not others:
            return None
        other = self.rng.choice(others)
        listed = other.client_id in message.client_ids
        peer_id = other.client_id if listed else self.rng.choice(message.client_ids)
        for name in ("channel_public_key", "mask_public_key", "identity_key", "signature"):
            message = with_key(message, peer_id, f"{name}s", getattr(other.keys, name))
        return message

    # --- Lists --------------------------------------------------------------------------------------------------------

    def _false_sharers(self, run: Run, message: PeerShares, story: Story) -> PeerShares:
        """Report one sharer more, or one fewer."""
        gone = {self.rng.choice(run.listed)} - {run.client_id}
        changed = Story(story.neighbors, {run.client_id: story.unshared.get(run.client_id, set()) ^ gone})
        return self.liar.peer_shares(run, changed)

    def _wrong_shares(self, run: Run, message: PeerShares, story: Story) -> PeerShares:
        items = split(message.encrypted_shares, ENCRYPTED_SHARES_BYTES)
        if len(items) > 1 and self.rng.random() < 0.5:
            self.rng.shuffle(items)
        elif items:
            items[self.rng.randrange(len(items))] = self.rng.randbytes(ENCRYPTED_SHARES_BYTES)
        return replace(message, encrypted_shares=b"".join(items))

    def _false_survivors(self, run: Run, message: SurvivorList, story: Story) -> SurvivorList:
        """Report one survivor more, or one fewer."""
        flags = list(message.survivors)
        at = self.rng.randrange(len(flags))
        flags[at] = not flags[at]
        return replace(message, survivors=tuple(flags))

    # --- Proofs -------------------------------------------------------------------------------------------------------

    def _other_views(self, run: Run, message: ConsistencyProof, story: Story) -> ConsistencyProof:
        return consistency_proof(run, self.liar.votes(run, Rules.ALL))

    def _old_signatures(self, run: Run, message: ConsistencyProof, story: Story) -> ConsistencyProof | None:
        """Use the survivors' signatures from other sessions."""
        survivors = {
            peer_id for peer_id, flag in zip(run.listed, run.told[SurvivorList].survivors, strict=True) if flag
        }
        elsewhere = self._elsewhere(run)
        votes = {peer_id: old[0] for peer_id in survivors if (old := votes_of(peer_id, elsewhere))}
        return consistency_proof(run, self.liar.votes(run, Rules.NONE) | votes) if votes else None

    def _forged_signatures(self, run: Run, message: ConsistencyProof, story: Story) -> ConsistencyProof:
        return forged(message, self.rng)

    def _scrambled_views(self, run: Run, message: ConsistencyProof, story: Story) -> ConsistencyProof:
        return scrambled(message, run, self.rng)

    # --- Any message --------------------------------------------------------------------------------------------------

    def _elsewhere(self, run: Run) -> list[Run]:
        """Return the runs of other sessions."""
        return [other for other in self.world.ledger.runs if other.session_id != run.session_id]

    def _told_to(self, runs: list[Run], kind: type) -> Any:
        """Return a message that one of these runs was sent."""
        told = [run.told[kind] for run in runs if kind in run.told]
        return self.rng.choice(told) if told else None

    def _other_session(self, run: Run, message: Any, story: Story) -> Any:
        return self._told_to(self._elsewhere(run), type(message))

    def _disguised(self, run: Run, message: Any, story: Story) -> Any:
        old = self._told_to(self._elsewhere(run), type(message))
        return old and replace(old, session_id=run.session_id)

    def _anothers(self, run: Run, message: Any, story: Story) -> Any:
        return self._told_to(self.world.runs_of(run.session_id), type(message))

    def _out_of_order(self, run: Run, message: Any, story: Story) -> Any:
        other = self.rng.choice([kind for kind in LIES if kind is not type(message)])
        return self._told_to(self.world.ledger.runs, other)

    def _bad_bytes(self, run: Run, message: Any, story: Story) -> bytes:
        data = encode(message, run.params)
        at = self.rng.randrange(len(data))
        return data[:at] + bytes([data[at] ^ self.rng.randint(1, 255)]) + data[at + 1 :]

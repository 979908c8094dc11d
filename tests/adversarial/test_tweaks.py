"""Any one change to any one message, in both directions: the exact sum or an abort, and one secret of each client."""

from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from secagg import Aborted, Adversary, Completed, LocalProtocolError, encode
from secagg.messages import (
    AdvertiseKeys,
    ConsistencyCheck,
    ConsistencyProof,
    MaskedInput,
    PeerKeys,
    PeerShares,
    ShareKeys,
    SurvivorList,
    UnmaskingShares,
)
from tests.adversarial.adversary import LyingServer, params_of
from tests.adversarial.knowledge import assert_hidden
from tests.adversarial.tweaks import flipped, tweaked

SIZES = {
    "complete": {"num_clients": 5, "threshold": 3, "corrupt_clients": 0},
    "sparse": {"num_clients": 8, "degree": 4, "threshold": 3},
}
FROM_CLIENT = (AdvertiseKeys, ShareKeys, MaskedInput, ConsistencyCheck, UnmaskingShares)
FROM_SERVER = (PeerKeys, PeerShares, SurvivorList, ConsistencyProof)


@cache
def elsewhere(mode: Adversary, graph: str, nonce: bytes) -> LyingServer:
    """Return an honest session to take messages from: another one, or this one's twin with other keys."""
    server = LyingServer(params_of(mode, graph, **SIZES[graph]), nonce=nonce, seed="elsewhere")
    server.conclude()
    return server


@dataclass
class Tweak:
    """The place of a change, and what was changed into what."""

    data: Any
    kind: type
    victim: int
    mode: Adversary
    graph: str
    was: Any = None
    became: Any = None
    server: LyingServer = field(init=False)

    def __call__(self, client_id: int, message: Any) -> Any:
        if client_id != self.victim or not isinstance(message, self.kind):
            return message
        pool = [self.server.sent, self.server.told]
        pool += [side for nonce in (b"nonce", b"other") for other in (elsewhere(self.mode, self.graph, nonce),)
                 for side in (other.sent, other.told)]  # fmt: skip
        others = [said for side in pool for said in side.get(self.kind, {}).values()]
        changed = self.data.draw(tweaked(message, others))
        try:
            encode(changed, self.server.params)
        except LocalProtocolError:
            # The codec refuses this one; change bytes instead, which can always be sent.
            changed = self.data.draw(flipped(encode(message, self.server.params)))
        self.was, self.became = message, changed
        return changed


@pytest.mark.slow
@settings(max_examples=150)
@given(st.data(), st.sampled_from(Adversary), st.sampled_from(sorted(SIZES)), st.booleans())
def test_one_change_gives_the_exact_sum_or_an_abort_and_no_second_secret(data, mode, graph, upward):
    params = params_of(mode, graph, **SIZES[graph])
    kinds = [
        kind
        for kind in (FROM_CLIENT if upward else FROM_SERVER)
        if params.is_signed or kind not in (ConsistencyCheck, ConsistencyProof)
    ]
    victim = data.draw(st.integers(0, params.num_clients - 1))
    tweak = Tweak(data, data.draw(st.sampled_from(kinds)), victim, mode, graph)
    # Up to two others vanish, each before one of its messages.
    lost = data.draw(st.dictionaries(st.integers(0, params.num_clients - 1), st.sampled_from(FROM_CLIENT), max_size=2))
    lost.pop(victim, None)

    def uplink(client_id, message):
        if isinstance(message, lost.get(client_id, ())):
            return ()
        return (tweak(client_id, message) if upward else message,)

    server = tweak.server = LyingServer(params, uplink=uplink)
    server.conclude((lambda client_id, message: message) if upward else tweak)
    assert_hidden(server)
    event(f"{tweak.kind.__name__} {'untouched' if tweak.became is None else type(server.end).__name__}")
    if isinstance(server.end, Aborted):
        return
    assert isinstance(server.end, Completed)
    difference = (server.end.sum.astype(object) - server.true_sum(server.end.included)) % params.modulus
    if isinstance(tweak.became, MaskedInput | bytes) and tweak.kind is MaskedInput and victim in server.end.included:
        # Only this change cannot be noticed: it acts as if the client's own input were another.
        assert np.array_equal(difference, _own_contribution(server, tweak))
    elif not upward and _spoils(params, tweak):
        # A lie about its peers' masks spoils the sum for the server; it learns nothing by it.
        return
    else:
        assert not difference.any()


def _own_contribution(server: LyingServer, tweak: Tweak) -> np.ndarray:
    """Return what the changed masked input alone adds to the sum."""
    from secagg import decode_client_message

    data = tweak.became if isinstance(tweak.became, bytes) else encode(tweak.became, server.params)
    arrived = decode_client_message(data, server.params).masked_input.astype(object)
    return (arrived - tweak.was.masked_input.astype(object)) % server.params.modulus


def _spoils(params, tweak: Tweak) -> bool:
    """Return whether the change gave one client other masks than its peers have; only signed keys prevent this."""
    return tweak.kind is PeerShares or (tweak.kind is PeerKeys and not params.is_signed)

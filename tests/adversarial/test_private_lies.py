"""Servers that lie about privacy: clients count for themselves, charge before they send, and send each noise once."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest

from fl.aggregation.private_session import PrivateEncoding
from fl.errors import ConfigError, FLError
from fl.files import replace_file
from fl.network import own_inputs
from fl.network.announcement import RoundAnnouncement, decode_announcement, encode_announcement, round_context
from fl.network.offers import DeclinedError
from fl.network.policy import Policy
from fl.privacy import ledger as ledger_module
from fl.privacy.mechanism import rotation_seed
from fl.privacy.policy import PrivacyPolicy
from fl.strict_msgpack import unpack_first
from secagg import Adversary, PolicyError
from tests.adversarial.private_victim import (
    LENGTH,
    LIMITS,
    PARAMS,
    TERMS,
    Victim,
    announced,
    offer,
    with_mechanism,
)
from tests.adversarial.repeating_server import VICTIM, examples
from transport import InputWithheldError, Offer


@pytest.fixture
def victim(tmp_path: Path) -> Iterator[Victim]:
    made = Victim(tmp_path)
    yield made
    made.close()


def test_an_honest_servers_round_is_accepted_and_costs_what_was_planned(victim: Victim) -> None:
    victim.check(offer())
    assert victim.account.spent == 0
    victim.input(offer(), "one")
    assert victim.account.spent == pytest.approx(4.0, rel=1e-9)


def low_threshold() -> Offer:
    return offer(params=replace(PARAMS, threshold=11))


def low_threshold_that_the_terms_admit() -> Offer:
    return offer(terms=replace(TERMS, honest=11), params=replace(PARAMS, threshold=11))


def sampling_claim() -> Offer:
    return offer(terms=replace(with_mechanism(variance=TERMS.mechanism.variance / 4), sampling_rate=1e-9))


def corrupt_clients_unmentioned() -> Offer:
    fewer = with_mechanism(variance=TERMS.mechanism.variance / 3)
    return offer(terms=replace(fewer, honest=PARAMS.threshold, corrupt=0))


def honest_but_curious() -> Offer:
    return offer(params=replace(PARAMS, adversary=Adversary.HONEST_BUT_CURIOUS))


def sparse() -> Offer:
    return offer(params=replace(PARAMS, degree=12, threshold=9))


def narrow_ring() -> Offer:
    return offer(terms=with_mechanism(ring_bits=2), params=replace(PARAMS, ring_bits=2, value_bits=2))


def large_clip() -> Offer:
    """A clip a hundred times as large, with the same noise."""
    return offer(terms=with_mechanism(clip=50.0))


def other_ring() -> Offer:
    return offer(params=replace(PARAMS, ring_bits=PARAMS.ring_bits + 1, value_bits=PARAMS.ring_bits + 1))


def not_modular() -> Offer:
    return offer(params=replace(PARAMS, modular=False, value_bits=PARAMS.ring_bits - 5))


def no_terms() -> Offer:
    """An ordinary session, without noise."""
    plain = replace(PARAMS, modular=False, value_bits=24, ring_bits=32)
    return offer(terms=None, params=plain)


def scores_without_noise() -> Offer:
    plain = replace(PARAMS, modular=False, value_bits=24, ring_bits=32)
    return offer(terms=None, params=plain, purpose="scores", holdout=0.25)


def scores_of_an_update() -> Offer:
    """Terms for an update's length, where scores are asked."""
    return offer(purpose="scores", holdout=0.25)


def figures_that_the_task_lacks() -> Offer:
    return offer(terms=with_mechanism(figures=20, figure_weight=1e-3))


def shorter_updates() -> Offer:
    return offer(terms=with_mechanism(length=LENGTH - 1))


@pytest.mark.parametrize(
    ("lie", "reason"),
    [
        (low_threshold, "a sum may have only 11"),
        (low_threshold_that_the_terms_admit, r"but at most 4\.5 is allowed"),
        (sampling_claim, r"but at most 4\.5 is allowed"),
        (corrupt_clients_unmentioned, r"but at most 4\.5 is allowed"),
        (honest_but_curious, "asks for malicious mode"),
        (sparse, "sparse graph"),
        (narrow_ring, "privacy be spent on nothing"),
        (large_clip, r"but at most 4\.5 is allowed"),
        (other_ring, "noise in a ring of"),
        (not_modular, "without wrapping around"),
        (no_terms, "the session has no noise"),
        (scores_without_noise, "the session has no noise"),
        (scores_of_an_update, "the terms are for"),
        (figures_that_the_task_lacks, "20 figures"),
        (shorter_updates, "but the model has"),
    ],
)
def test_a_lie_is_declined_before_training_and_costs_nothing(
    victim: Victim, lie: Callable[[], Offer], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own_inputs, "local_update", lambda *_, **__: pytest.fail("it trained"))
    with pytest.raises(DeclinedError, match=reason):
        victim.check(lie())
    assert not victim.account.ledger.charges


@pytest.mark.parametrize("noise", [0.0, -1.0, math.nan, math.inf, 5e-324])
@pytest.mark.parametrize("name", ["variance", "clip", "granularity"])
def test_forged_numbers_are_declined(victim: Victim, name: str, noise: float) -> None:
    (version, since, values), model = unpack_first(encode_announcement(announced()), max_items=200)
    values["privacy"]["mechanism"][name] = noise
    forged = Offer(PARAMS, b"nonce", msgpack.packb([version, since, values]) + bytes(model), 1)
    with pytest.raises(DeclinedError):
        victim.check(forged)
    assert not victim.account.ledger.charges


@pytest.mark.parametrize(
    "change",
    [
        {"granularity": 1e-29, "clip": 1e29},
        {"granularity": 1e-10},
        {"length": 2**40, "figures": 1000, "figure_weight": 1e6},
        {"variance": 2.0**32, "granularity": 1e30, "clip": 1e30},
    ],
)
def test_numbers_that_would_overflow_end_in_an_answer(victim: Victim, change: dict[str, Any]) -> None:
    (version, since, values), model = unpack_first(encode_announcement(announced()), max_items=200)
    values["privacy"]["mechanism"] |= change
    forged = Offer(PARAMS, b"nonce", msgpack.packb([version, since, values]) + bytes(model), 1)
    with pytest.raises(DeclinedError):
        victim.check(forged)


def test_noise_that_falls_from_round_to_round_ends_at_the_clients_limit(victim: Victim) -> None:
    """Each round is within the limit of a round; the client adds up what each of them was."""
    spent = [0.0]
    for number in range(1, 30):
        weaker = with_mechanism(variance=TERMS.mechanism.variance * max(0.9, 1 - 0.02 * number))
        offered = offer(number, weaker)
        try:
            victim.check(offered)
        except DeclinedError as declined:
            error = declined
            break
        victim.input(offered, f"round {number}")
        spent.append(victim.account.spent)
    assert "would bring this client above its limit of 12" in str(error)
    assert spent == sorted(spent)
    assert spent[-1] <= 12
    assert 3 <= len(victim.account.ledger.charges) < 20
    # What the server is told has no figure of the client.
    assert error.told == "the session is not within this client's limits of privacy"


def test_a_session_that_goes_on_after_kill_9_sends_the_same_vector_and_costs_once(victim: Victim) -> None:
    first = victim.input(offer(), "session")
    victim.start()
    again = victim.input(offer(), "session")
    assert np.array_equal(first, again)
    assert len(victim.account.ledger.charges) == 1


def test_the_same_offer_in_another_session_is_another_look(victim: Victim) -> None:
    """A server repeats offer, nonce and all: nothing of it makes the client take it for the session before."""
    first = victim.input(offer(), "session")
    victim.start()
    second = victim.input(offer(), "another")
    assert not np.array_equal(first, second)
    assert len(victim.account.ledger.charges) == 2
    # And back to the first one, if its journal could come back: it is charged again, rather than for nothing.
    victim.input(offer(), "session")
    assert len(victim.account.ledger.charges) == 3


def test_fresh_noise_makes_the_difference_of_two_looks_as_noisy_as_planned(victim: Victim) -> None:
    looks = [victim.input(offer(), name).astype(np.int64) for name in ("one", "another")]
    difference = secagg_centered(looks[0] - looks[1])
    assert difference.var() == pytest.approx(2 * TERMS.mechanism.variance, rel=0.3)


def secagg_centered(values: np.ndarray) -> np.ndarray:
    modulus = 1 << PARAMS.ring_bits
    return (values + modulus // 2) % modulus - modulus // 2


def test_a_client_whose_training_fails_sends_noise_and_pays_for_it(
    victim: Victim, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise FLError("it diverged")

    monkeypatch.setattr(own_inputs, "local_update", fails)
    vector = victim.input(offer(), "session")
    assert len(victim.account.ledger.charges) == 1
    rotation = rotation_seed(round_context(1, offer().extra))
    alone, _ = TERMS.mechanism.decode(vector, rotation=rotation)
    deviation = math.sqrt(TERMS.mechanism.variance) * TERMS.mechanism.granularity
    assert alone.std() == pytest.approx(deviation, rel=0.15)


def test_nothing_leaves_if_the_ledger_cannot_be_written(victim: Victim, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, data: bytes) -> None:
        if path.name == "privacy.json":
            raise OSError(28, "No space left on device")
        replace_file(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(ledger_module, "replace_file", full)
        with pytest.raises(InputWithheldError, match="cannot write the privacy ledger"):
            victim.input(offer(), "session")
    assert not victim.account.ledger.charges
    victim.input(offer(), "session")
    assert len(victim.account.ledger.charges) == 1


def test_the_ledger_is_on_the_disk_before_the_input_is_made(victim: Victim, monkeypatch: pytest.MonkeyPatch) -> None:
    there: list[int] = []
    encode = PrivateEncoding.encode

    def watched(self: Any, *arguments: Any, **named: Any) -> Any:
        path = victim.folder / "state" / f"client-{VICTIM}.privacy" / "privacy.json"
        there.append(len(ledger_module.Ledger.load(path).charges))
        return encode(self, *arguments, **named)

    monkeypatch.setattr(PrivateEncoding, "encode", watched)
    victim.input(offer(), "session")
    assert there == [1]


def test_a_client_that_is_started_again_remembers_and_with_a_damaged_ledger_does_not_start(victim: Victim) -> None:
    victim.input(offer(), "session")
    spent = victim.account.spent
    victim.start()
    assert victim.account.spent == spent
    path = victim.folder / "state" / f"client-{VICTIM}.privacy" / "privacy.json"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ConfigError, match="restore the file"):
        victim.start()


def test_a_session_that_began_under_wider_limits_ends_with_the_present_ones(victim: Victim) -> None:
    """It was killed before its input was charged, and started again with a lower limit."""
    victim.check(offer())
    victim.policy = Policy(min_inputs=4, privacy=PrivacyPolicy(max_epsilon=3.0, delta=1e-5))
    victim.start()
    with pytest.raises(PolicyError, match="above its limit of 3"):
        victim.input(offer(), "session")
    assert not victim.account.ledger.charges


def test_terms_are_in_the_context_so_that_clients_with_other_terms_have_other_masks() -> None:
    other = offer(terms=with_mechanism(variance=TERMS.mechanism.variance * 1.0000001))
    assert round_context(1, other.extra) != round_context(1, offer().extra)
    decoded = decode_announcement(other.extra)
    assert isinstance(decoded, RoundAnnouncement)
    assert decoded.privacy != TERMS


def test_a_client_that_trusts_nobody_else_counts_on_its_own_noise(tmp_path: Path) -> None:
    """With nine of ten clients assumed corrupt, a session planned for that is needed, or it is local privacy."""
    strict = Policy(min_inputs=4, corrupt=0.25, privacy=LIMITS)
    victim = Victim(tmp_path, strict)
    try:
        with pytest.raises(DeclinedError, match="with the noise of 11 honest clients"):
            victim.check(offer())
    finally:
        victim.close()


def test_a_cancelled_session_charges_nothing_once_the_client_has_given_up_its_folder(victim: Victim) -> None:
    """Its thread trains on for a while, when another process may already use the ledger."""
    old = victim.participant
    victim.start()
    old._inputs.journal = journal = victim.journal("session")
    with pytest.raises(InputWithheldError, match="is closed"):
        old._input(offer())
    journal.close()
    assert not victim.account.ledger.charges


def test_a_clip_that_rounds_to_nothing_is_declined(victim: Victim) -> None:
    """It would be noise of no cost, of a vector of length 0, which nobody can count."""
    terms = TERMS.to_map()
    terms["mechanism"] |= {"length": 1, "clip": 1e-9, "granularity": 1.0}
    (version, since, values), model = unpack_first(encode_announcement(announced()), max_items=200)
    values["privacy"] = terms
    with pytest.raises(DeclinedError, match="rounded to 0"):
        victim.check(Offer(PARAMS, b"nonce", msgpack.packb([version, since, values]) + bytes(model), 1))


def test_a_decline_for_the_labels_has_no_reason_and_is_not_counted(victim: Victim) -> None:
    """A limit: the server sees that the client declines, and so learns its largest label without noise."""
    most = int(examples(VICTIM).labels.max())
    with pytest.raises(DeclinedError, match=f"knows {most} classes, but there is a label {most}") as declined:
        victim.check(offer(num_classes=most))
    assert not declined.value.told
    assert not victim.account.ledger.charges


def test_nobody_else_can_write_to_the_folder_of_the_ledger_whatever_the_umask(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir(mode=0o755)
    before = os.umask(0o002)
    try:
        victim = Victim(tmp_path)
        victim.close()
        folder = tmp_path / "state" / f"client-{VICTIM}.privacy"
        assert folder.stat().st_mode & 0o777 == 0o700
        folder.chmod(0o775)
        with pytest.raises(ConfigError, match="chmod 700"):
            victim.start()
    finally:
        os.umask(before)

"""`secagg join`, whole participants that train, against a server that lies at random."""

import pytest

from secagg import Adversary
from tests.adversarial.lies.figures import OF_FRAMEWORKS, Lie
from tests.adversarial.lies.joining import join
from tests.adversarial.random_lies import THRIFTY, assert_held, campaign, played
from transport import ClientRecord

pytestmark = pytest.mark.slow

# No client has a second run in a session.
WITHOUT = OF_FRAMEWORKS | {Lie.OLD_KEYS}


def test_random_lies_get_nothing_from_participants(tmp_path):
    assert_held(played(join(tmp_path), sessions=60, seed=2, without=WITHOUT, graphs=THRIFTY), WITHOUT)


def test_the_campaign_finds_a_missing_record(tmp_path, monkeypatch):
    for name in ("check", "enter", "check_round", "answer"):
        monkeypatch.setattr(ClientRecord, name, lambda *arguments, **options: None)
    figures = campaign(
        join(tmp_path),
        sessions=400,
        seed="canary",
        modes=(Adversary.MALICIOUS,),
        graphs=("complete",),
        stop=lambda figures: bool(figures.second_answers),
    )
    assert figures.second_answers, figures

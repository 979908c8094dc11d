"""Rules for the server's messages: a client refuses each message that breaks one."""

import pytest

from secagg import ClientPhase, RemoteProtocolError, Rule
from secagg.messages import PeerShares, SurvivorList
from tests.secagg.client_cases import BROKEN, CASES, with_shared, with_survivors
from tests.secagg.machines import ALICE, MODES, Halt, script
from tests.secagg.object_graph import frames_of, secrets_in
from tests.secagg.test_client_phases import assert_dead

each_mode = pytest.mark.parametrize("adversary", MODES, ids=lambda mode: mode.value)


@pytest.mark.parametrize("broken", BROKEN, ids=str)
def test_a_broken_rule_is_named_and_leaves_no_secret(broken):
    client = broken.client()
    with pytest.raises(RemoteProtocolError) as refusal:
        client.receive(broken.message())
    assert refusal.value.rule is broken.case.rule
    assert refusal.value.culprits == broken.case.culprits
    assert broken.case.rule.value in str(refusal.value)
    assert_dead(broken.script, client)


def client_whose_first_peer_shared_nothing(adversary):
    """Return a client in MASKED to which the server said that client 3 had not shared its keys."""
    recorded = script(adversary)
    client = Halt(adversary, ClientPhase.SHARED_KEYS).client()
    client.receive(with_shared(1, 2, 3, 4)(recorded.message(PeerShares, ALICE)))
    client.submit_input(recorded.inputs[ALICE])
    return client


@each_mode
def test_a_survivor_that_had_not_shared_its_keys_is_refused(adversary):
    client = client_whose_first_peer_shared_nothing(adversary)
    with pytest.raises(RemoteProtocolError, match="clients 3") as refusal:
        client.receive(with_survivors(0, 1, 2, 3)(script(adversary).message(SurvivorList, ALICE)))
    assert refusal.value.rule is Rule.SURVIVORS_NOT_SUBSET
    assert_dead(script(adversary), client)


def test_no_share_of_a_client_that_had_not_shared_its_keys_is_released():
    client = client_whose_first_peer_shared_nothing(MODES[0])
    (answer,) = client.receive(with_survivors(1, 2, 3, 4)(script().message(SurvivorList, ALICE)))
    assert answer.message.held == (False, True, True, True, True)
    assert answer.message.shares.shape[0] == 4


def test_every_rule_has_a_test():
    """The rules in the table, and those that this file's other tests and the tests of phases and views trigger."""
    elsewhere = {
        Rule.UNEXPECTED_MESSAGE,
        Rule.WRONG_SESSION,
        Rule.SURVIVORS_NOT_SUBSET,
        Rule.REPEATED_REQUEST,
        Rule.SURVIVORS_CHANGED,
        Rule.VIEWS_CONTRADICT,
    }
    assert {case.rule for case in CASES} | elsewhere == set(Rule)
    assert not {case.rule for case in CASES} & elsewhere


@pytest.mark.parametrize("broken", BROKEN[::3], ids=str)
def test_the_refusal_itself_keeps_no_secret_alive(broken):
    """Hosts keep exceptions, and error reporters print their frames: the library's frames must hold no secret."""
    client = broken.client()
    with pytest.raises(RemoteProtocolError) as refusal:
        client.receive(broken.message())
    frames = frames_of(refusal.value, "secagg")
    assert frames
    assert secrets_in(broken.script.secrets(ALICE), refusal.value.args, *frames) == set()

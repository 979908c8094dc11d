"""States that are used once, keys that are enrolled, and clients' demands."""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fl.aggregation.session_policy import PolicyError, SessionPolicy
from fl.errors import ConfigError
from fl.integrations.claims import ClaimedError, Claims
from fl.integrations.identities import EnrolledKeys
from secagg import Adversary, Identity, KeyDirectory, LocalProtocolError, Parameters


def test_a_state_is_claimed_once(tmp_path: Path) -> None:
    Claims(tmp_path).claim(b"one")
    Claims(tmp_path).claim(b"two")
    with pytest.raises(ClaimedError, match="answer twice"):
        Claims(tmp_path).claim(b"one")


def test_among_concurrent_claims_one_wins(tmp_path: Path) -> None:
    def try_it(number: int) -> bool:
        try:
            Claims(tmp_path).claim(b"state")
        except ClaimedError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(try_it, range(64))) == 1


def test_claims_reveal_nothing_of_the_state(tmp_path: Path) -> None:
    state = b"a client's state, which is secret"
    Claims(tmp_path / "claims").claim(state)
    (file,) = (tmp_path / "claims").iterdir()
    assert state not in file.read_bytes()
    assert state.hex().encode() not in file.read_bytes()
    assert (tmp_path / "claims").stat().st_mode & 0o777 == 0o700
    assert file.stat().st_mode & 0o777 == 0o600


def test_files_of_others_in_the_folder_are_left_alone(tmp_path: Path) -> None:
    key = tmp_path / "identity.key"
    key.write_bytes(bytes(32))
    long_ago = time.time() - 30 * 24 * 3600
    os.utime(key, (long_ago, long_ago))
    Claims(tmp_path).claim(b"one")
    assert key.read_bytes() == bytes(32)


def test_a_link_to_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "home")
    with pytest.raises(ConfigError, match="not a link"):
        Claims(tmp_path / "link")
    assert not list((tmp_path / "home").iterdir())


def test_without_a_folder_claims_are_kept_with_the_users_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    Claims().claim(b"one")
    assert (tmp_path / "secagg" / "participation.db").is_file()
    with pytest.raises(ClaimedError):
        Claims().claim(b"one")


def test_a_folder_that_others_can_write_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with pytest.raises(ConfigError, match="writable for nobody else"):
        Claims(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot be used"):
        Claims(tmp_path / "file")


def test_enrolled_keys_are_trusted_under_any_number() -> None:
    keys = [Identity.generate().public_key for _ in range(3)]
    directory = EnrolledKeys(keys)
    assert isinstance(directory, KeyDirectory)
    assert all(directory.is_trusted(client_id, key) for client_id in (0, 7) for key in keys)
    assert not directory.is_trusted(0, Identity.generate().public_key)
    assert len(directory) == 3
    for wrong in ([*keys, keys[0]], [b"short"], keys[0], "text", 3):
        with pytest.raises(LocalProtocolError):
            EnrolledKeys(wrong)  # type: ignore[arg-type]


def parameters(
    threshold: int = 5,
    adversary: Adversary = Adversary.HONEST_BUT_CURIOUS,
    *,
    modular: bool = False,
    vector_length: int = 1,
) -> Parameters:
    return Parameters(
        num_clients=8, threshold=threshold, degree=7, vector_length=vector_length, value_bits=8, ring_bits=11,
        modular=modular, adversary=adversary,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("policy", "params", "text"),
    [
        (SessionPolicy(), parameters(4), "more than half"),
        (SessionPolicy(min_inputs=6), parameters(5), "asks for 6"),
        (SessionPolicy(), parameters(5), "in honest-but-curious mode, but this client asks for malicious"),
        (SessionPolicy(adversary=Adversary.MALICIOUS), parameters(5, Adversary.SEMI_MALICIOUS), "asks for malicious"),
        (SessionPolicy(), parameters(5, modular=True), "wrap"),
        (SessionPolicy(max_elements=100), parameters(5, vector_length=101), "101 elements, but this client takes 100"),
        (SessionPolicy(), parameters(5, vector_length=1 << 30), "1073741824 elements"),
    ],
)
def test_sessions_that_a_client_declines(policy: SessionPolicy, params: Parameters, text: str) -> None:
    with pytest.raises(PolicyError, match=text):
        policy.check(params)


def test_sessions_that_a_client_takes_part_in() -> None:
    SessionPolicy(adversary=Adversary.HONEST_BUT_CURIOUS).check(parameters())
    SessionPolicy().check(parameters(5, Adversary.MALICIOUS))
    SessionPolicy(min_inputs=5, adversary=Adversary.SEMI_MALICIOUS).check(parameters(5, Adversary.MALICIOUS))

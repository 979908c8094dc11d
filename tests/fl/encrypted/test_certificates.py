"""The parties' keys and certificates: the files of each party, and OpenSSL's verdicts."""

from __future__ import annotations

import ssl
import stat
from pathlib import Path

import pytest

from fl.encrypted.certificates import write_certificates


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    made = [tmp_path / str(party) for party in range(3)]
    for folder in made:
        folder.mkdir()
    write_certificates(made)
    return made


def context(purpose: ssl.Purpose, folder: Path, party: int) -> ssl.SSLContext:
    """Return a context made as in MPyC."""
    config = folder / ".config"
    made = ssl.create_default_context(purpose)
    made.load_cert_chain(config / f"party_{party}.crt", keyfile=config / f"party_{party}.key")
    made.load_verify_locations(cafile=config / "mpyc_ca.crt")
    made.verify_mode = ssl.CERT_REQUIRED
    return made


def shake_hands(caller: ssl.SSLContext, answerer: ssl.SSLContext, name: str) -> None:
    """Shake hands by TLS in memory; ssl.SSLError if either side refuses the other."""
    to_answerer, to_caller = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        caller.wrap_bio(to_caller, to_answerer, server_hostname=name),
        answerer.wrap_bio(to_answerer, to_caller, server_side=True),
    ]
    for _ in range(6):
        for end in ends:
            try:
                end.do_handshake()
                end.read()
            except ssl.SSLWantReadError:
                pass
    assert ends[0].version() == ends[1].version() == "TLSv1.3"


def test_each_folder_has_its_own_partys_key_and_no_other(folders: list[Path]) -> None:
    keys = [sorted(path.name for path in folder.rglob("*.key")) for folder in folders]
    assert keys == [["party_0.key"], ["party_1.key"], ["party_2.key"]]
    for party, folder in enumerate(folders):
        key = folder / ".config" / f"party_{party}.key"
        assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert len({(folder / ".config" / "mpyc_ca.crt").read_bytes() for folder in folders}) == 1


def test_parties_accept_each_other_in_both_directions(folders: list[Path]) -> None:
    for caller, answerer in ((0, 1), (1, 2), (0, 2)):
        shake_hands(
            context(ssl.Purpose.SERVER_AUTH, folders[caller], caller),
            context(ssl.Purpose.CLIENT_AUTH, folders[answerer], answerer),
            f"MPyC party {answerer}",
        )


def test_one_party_cannot_answer_for_another(folders: list[Path]) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match="ostname mismatch"):
        shake_hands(
            context(ssl.Purpose.SERVER_AUTH, folders[0], 0),
            context(ssl.Purpose.CLIENT_AUTH, folders[2], 2),
            "MPyC party 1",
        )


def test_strangers_are_refused(folders: list[Path], tmp_path: Path) -> None:
    others = [tmp_path / f"other{party}" for party in range(3)]
    for folder in others:
        folder.mkdir()
    write_certificates(others)
    with pytest.raises(ssl.SSLCertVerificationError, match="verify failed"):
        shake_hands(
            context(ssl.Purpose.SERVER_AUTH, folders[0], 0),
            context(ssl.Purpose.CLIENT_AUTH, others[1], 1),
            "MPyC party 1",
        )
    with pytest.raises(ssl.SSLError):
        shake_hands(
            context(ssl.Purpose.SERVER_AUTH, others[0], 0),
            context(ssl.Purpose.CLIENT_AUTH, folders[1], 1),
            "MPyC party 1",
        )

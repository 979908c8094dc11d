"""Malicious mode: sites know each other's keys, and the server cannot play a site."""

import json
import stat
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("nvflare", reason="needs NVFlare, which has its own environment: make test-nvflare")

from fl.integrations.nvflare import NVFlareJobError, SiteKeyFiles, new_identity_file
from secagg import Aborted, Adversary, Completed, Round
from tests.integrations.nvflare.loopback import LoopbackCourier, Site, announce, initial_model
from tests.integrations.nvflare.test_rounds import SITES, assert_mean_of, trained


def provision(folder: Path) -> dict[str, str]:
    """Make each site's key, and give the public ones to all."""
    directory = {}
    for name in (*SITES, "server"):
        (folder / name).mkdir()
        if name != "server":
            directory[name] = new_identity_file(folder / name / "secagg_identity.key")
    for name in (*SITES, "server"):
        (folder / name / "secagg_directory.json").write_text(json.dumps(directory))
    return directory


def run(folder: Path, **arguments: Any) -> tuple[Any, LoopbackCourier]:
    keys = SiteKeyFiles()
    sites = {
        name: Site(
            name,
            lambda model, name=name: trained(model, name),
            folder,
            components={"ids": keys},
            identity_id="ids",
            min_inputs=2,
        )
        for name in SITES
    }
    model = initial_model()
    courier = LoopbackCourier(announce(model, sites, Adversary.MALICIOUS), model, sites, **arguments)
    server = Site("server", trained, folder)
    return courier.run(directory=keys.directory(SITES, server.context())), courier


@pytest.mark.parametrize("round_", [None, *Round])
def test_a_round_with_identities(tmp_path: Path, round_: Round | None) -> None:
    provision(tmp_path)
    report, courier = run(tmp_path, leaving={} if round_ is None else {"b": (round_, "fails")})
    is_in = round_ in (None, Round.CONSISTENCY_CHECK, Round.UNMASKING)
    assert_mean_of(SITES if is_in else ("a", "c"), report, courier)


def test_a_key_that_the_others_do_not_know_is_not_a_site(tmp_path: Path) -> None:
    """The server puts its own client into a site's place."""
    provision(tmp_path)
    (tmp_path / "b" / "secagg_identity.key").unlink()
    new_identity_file(tmp_path / "b" / "secagg_identity.key")
    report, _ = run(tmp_path)
    assert isinstance(report.outcome, Completed)
    assert report.outcome.included == (0, 2)


def test_a_server_with_a_different_directory_gets_no_share(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    directory = provision(tmp_path)
    (tmp_path / "b" / "secagg_identity.key").unlink()
    directory["b"] = new_identity_file(tmp_path / "b" / "secagg_identity.key")
    for name in ("b", "server"):
        (tmp_path / name / "secagg_directory.json").write_text(json.dumps(directory))
    report, _ = run(tmp_path)
    assert isinstance(report.outcome, Aborted)
    assert "identity key that the directory does not list" in caplog.text


def test_keys_are_their_owners_alone_and_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "key"
    public = new_identity_file(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(bytes.fromhex(public)) == 32
    assert path.read_bytes().hex() != public
    with pytest.raises(NVFlareJobError, match="exists"):
        new_identity_file(path)


@pytest.mark.parametrize(
    ("break_it", "reason"),
    [
        (lambda site: (site / "secagg_identity.key").unlink(), "new_identity_file"),
        (lambda site: (site / "secagg_identity.key").write_bytes(b"short"), "not an identity key"),
        (lambda site: (site / "secagg_identity.key").chmod(0o644), "chmod 600"),
        (lambda site: (site / "secagg_directory.json").unlink(), "cannot be read"),
        (lambda site: (site / "secagg_directory.json").write_text("{"), "not a directory of keys"),
        (lambda site: (site / "secagg_directory.json").write_text('{"a": "00"}'), "has no site"),
        (
            lambda site: (site / "secagg_directory.json").write_text('{"a": 1, "b": 2, "c": 3}'),
            "not a directory of keys",
        ),
    ],
)
def test_a_site_whose_files_are_broken_says_so_and_stays_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, break_it: Any, reason: str
) -> None:
    provision(tmp_path)
    break_it(tmp_path / "b")
    report, courier = run(tmp_path)
    assert_mean_of(("a", "c"), report, courier)
    assert reason in caplog.text

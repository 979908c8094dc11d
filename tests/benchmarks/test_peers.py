"""The peers' side: their Python, the messages if they are missing, and the correctness of our own work."""

import sys
from pathlib import Path

import pytest

from benchmarks.peers import environment, same_work


def test_a_missing_peer_is_skipped_with_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECAGG_PEERS_PYTHON", sys.executable)
    with pytest.raises(pytest.skip.Exception) as skipped:
        environment.require("no_such_peer")
    assert str(skipped.value) == f"no_such_peer is not installed for the peers' Python: {environment.INSTALL}"
    assert "\n" not in str(skipped.value)
    assert "make .venv/peers" in environment.INSTALL


def test_a_python_that_does_not_exist_is_skipped_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SECAGG_PEERS_PYTHON", str(tmp_path / "python"))
    with pytest.raises(pytest.skip.Exception, match="is not installed"):
        environment.require("json")


def test_an_installed_peer_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECAGG_PEERS_PYTHON", sys.executable)
    environment.require("json")


def test_a_script_that_fails_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECAGG_PEERS_PYTHON", sys.executable)
    with pytest.raises(RuntimeError, match=r"no_such_script\.py ended with code 2: .*No such file"):
        environment.run_script("no_such_script.py", clients=1)


def test_without_an_environment_of_their_own_peers_run_in_ours(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("SECAGG_PEERS_PYTHON", raising=False)
    monkeypatch.setattr(environment, "_OWN_ENVIRONMENT", tmp_path / "python")
    assert environment.interpreter() == sys.executable
    (tmp_path / "python").touch()
    assert environment.interpreter() == str(tmp_path / "python")


def test_our_round_is_exact_and_as_close_as_quantization_allows() -> None:
    result = same_work.run_round(num_clients=6, num_vanish=1, length=100, threshold=4)
    assert result.exact
    assert result.max_abs_error < 2 * same_work.FLOWER_CLIP / 2**same_work.FLOWER_BITS


def test_our_masks_cancel() -> None:
    assert same_work.run_masking(num_clients=4, length=100, value_bits=30).exact

"""Addresses, and users' mistakes at the start of `secagg serve` and `secagg join`, each in one line."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from fl.errors import ConfigError
from fl.network.addresses import parse_address, parse_addresses, show_address, show_addresses
from tests.fl.runs import assert_refused, invoke
from transport.certificates.authority import Authority


def test_addresses() -> None:
    assert parse_address("sum.example:7000") == ("sum.example", 7000)
    assert parse_address("[::1]:7000") == ("::1", 7000)
    assert parse_address(":0", listening=True) == ("", 0)
    assert show_address(("::1", 7)) == "[::1]:7"
    assert parse_address("müller.example:7000") == ("müller.example", 7000)
    for host in ("300.1.1.1", "a" * 64, "a b", "a..b", "*.example", "127.0.0.1/8", "-a"):
        for text in (f"{host}:7000", f"[{host}]:7000"):
            with pytest.raises(ConfigError, match="neither a host name nor an IP address"):
                parse_address(text)
    for text in ("", "host", "host:", "host:99999", "host:0", ":7000", "::1:7000", "host:-1", "host:٣"):
        with pytest.raises(ConfigError, match="an address is HOST:PORT"):
            parse_address(text)


def test_several_addresses_of_one_server() -> None:
    assert parse_addresses("a.example:7000, [::1]:7001") == (("a.example", 7000), ("::1", 7001))
    assert parse_addresses(show_addresses([("a", 1), ("::1", 2)])) == (("a", 1), ("::1", 2))
    for text, said in (("a:1,", "an address is HOST:PORT"), ("a:1,b", "an address is"), ("a:1,a:1", "there twice")):
        with pytest.raises(ConfigError, match=said):
            parse_addresses(text)


def test_fronts_without_ray_are_refused_before_a_folder_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    options = ("--clients", 4, "--dataset", "digits", "--plaintext", "--listen", "127.0.0.1:0", "--fronts", 2)
    result = invoke("serve", *options, "--out", tmp_path / "run")
    assert_refused(result, "fronts need Ray: pip install '.[ray]'")
    assert not (tmp_path / "run").exists()


CERTS = ("--certs", "nowhere")


SHARD = ("--shard", "0/2")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("serve", "--clients", 4, "--out", "run"), "give --certs, or --plaintext"),
        (("serve", "--clients", 4, *CERTS), "give --out"),
        (("serve", "--out", "run", *CERTS), "give --clients"),
        (("serve", "--clients", 4, "--out", "run", *CERTS), "nowhere/server.pem: this file does not exist"),
        (("serve", "--clients", 1, "--out", "run", *CERTS), "at least 2 clients"),
        (("serve", "--clients", 4, "--min-clients", 5, "--out", "run", *CERTS), "min-clients"),
        (("serve", "--clients", 4, "--min-clients", 2, "--out", "run", *CERTS), "threshold"),
        (("serve", "--clients", 4, "--out", "run", "--adversary", "evil", *CERTS), "unknown adversary 'evil'"),
        (("serve", "--clients", 4, "--out", "run", "--listen", "x", *CERTS), "an address is HOST:PORT"),
        (("serve", "--clients", 4, "--out", "run", "--give-up", 0, *CERTS), "give-up"),
        (("serve", "--clients", 4, "--out", "run", "--reply-seconds", 0, *CERTS), "reply-seconds must be above 0"),
        (("serve", "--clients", 4, "--out", "run", "--plaintext", "--listen", "192.0.2.1:7"), "loopback"),
        (("serve", "--resume", "run", "--clients", 4, *CERTS), "leave out --clients"),
        (("serve", "--resume", "run", *CERTS), "holds no run of secagg serve"),
        (("serve", "--clients", 4, "--out", "run", "--model", "logistic", "--adversary", "malicious", "--plaintext"),
         "--directory"),
        (("serve", "--clients", 4, "--out", "run", "--skip", 1, *CERTS), "give --resume"),
        (("serve", "--clients", 4, "--out", "run", "--fronts", -1, *CERTS), "between 0 and 1000, not -1"),
        (("serve", "--clients", 4, "--out", "run", "--ray", "auto", *CERTS), "also give --fronts"),
        (("serve", "--clients", 4, "--out", "run", "--fronts", 9, "--listen", ":65530", *CERTS), "9 fronts listen on"),
        (("join", "h:1,h:1", "--id", 0, *CERTS, *SHARD), "there twice"),
        (("join", "h:1", "--id", 0, *CERTS), "--arrays"),
        (("join", "h:1", "--id", 0, *SHARD), "give --certs"),
        (("join", "h", "--id", 0, *CERTS, *SHARD), "an address is HOST:PORT"),
        (("join", "h:1", "--id", 0, *CERTS, *SHARD, "--require-adversary", "evil"), "unknown adversary 'evil'"),
        (("join", "h:1", "--id", 0, *CERTS, *SHARD, "--min-inputs", 1), "min-inputs"),
        (("join", "h:1", "--id", 0, *CERTS, *SHARD, "--max-rounds", 0), "max-rounds"),
        (("join", "h:1", "--id", -1, "--plaintext", *SHARD), "id must be between 0 and 4294967295, not -1"),
        (("join", "h:1", "--id", 2**32, *CERTS, *SHARD), "id must be between 0 and 4294967295, not 4294967296"),
        (("join", "300.1.1.1:7000", "--id", 0, *CERTS, *SHARD), "'300.1.1.1' is neither a host name nor an IP address"),
        (("join", f"{'a' * 64}.example:7000", "--id", 0, *CERTS, *SHARD), "neither a host name nor an IP address"),
        (("join", "h:1", "--id", 0, *CERTS, *SHARD, "--server-name", "a b"), "server-name 'a b' is neither"),
        (("serve", "--clients", 4, "--out", "run", "--listen", "1.2.3:7", *CERTS), "'1.2.3' is neither a host name"),
        (("join", "h:1", "--id", 0, *CERTS, *SHARD, "--graph", "ring"), "unknown graph 'ring'"),
        (("join", "127.0.0.1:1", "--id", 0, "--plaintext", *SHARD, "--require-adversary", "malicious"),
         "certificates of all clients: give --certs"),
        (("join", "h:1", "--id", 0, *CERTS, *SHARD, "--max-model-bytes", 1 << 40), "max-model-bytes"),
        (("join", "h:1", "--id", 0, *CERTS, "--shard", "2/2"), "a shard is I/N"),
        (("join", "h:1", "--id", 0, *CERTS, "--arrays", "nowhere"), "no arrays x and y"),
        (("join", "127.0.0.1:1", "--id", 0, *CERTS, *SHARD), "client-0.key cannot be used: No such file"),
        (("join", "127.0.0.1:1", "--id", 0, "--plaintext", *SHARD, "--give-up", 0.1), "no word from 127.0.0.1:1"),
    ],
)  # fmt: skip
def test_a_users_mistake_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[object, ...], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    result = invoke(*options)
    lines = result.stdout.splitlines()
    assert all(line.startswith(("client ", "no connection to ")) for line in lines), result.stdout
    assert result.exit_code == 1, (result.exception, result.stderr)
    assert len(result.stderr.splitlines()) == 1, result.stderr
    assert said in result.stderr
    # Nothing is left that would prevent a second try.
    assert not (tmp_path / "run").exists()


def test_the_status_page_of_a_port_that_is_taken_is_one_line(tmp_path: Path) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        watch = f"127.0.0.1:{taken.getsockname()[1]}"
        result = invoke(
            "serve", "--clients", 4, "--model", "logistic", "--out", tmp_path / "run", "--plaintext",
            "--listen", "127.0.0.1:0", "--watch", watch,
        )  # fmt: skip
    assert result.exit_code == 1
    assert result.stderr == (
        f"error: cannot listen on {watch}: Address already in use; give another address with --watch\n"
    )


def test_a_port_that_is_taken_is_one_line(tmp_path: Path) -> None:
    import socket

    Authority.create(tmp_path / "certs").issue(server_names=["127.0.0.1"], client_ids=())
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        result = invoke(
            "serve", "--clients", 4, "--model", "logistic", "--out", tmp_path / "run", "--certs", tmp_path / "certs",
            "--listen", listen,
        )  # fmt: skip
    assert_refused(result, f"cannot listen on {listen}: Address already in use; give another address with --listen")

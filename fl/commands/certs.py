"""`secagg certs`: issue the certificates of a small deployment."""

import ipaddress
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from typer import Argument, Option

from fl.commands.output import open_console
from fl.errors import ConfigError
from fl.formatting import json_line
from transport.certificates.authority import AUTHORITY_DAYS, DEFAULT_DAYS, Authority
from transport.certificates.reading import CertificateError

_MAX_AT_ONCE = 100_000


def register(app: typer.Typer, reported: Callable[[bool], AbstractContextManager[None]]) -> None:
    """Add the command to ``app``; ``reported`` prints the user's mistakes as all commands do."""

    @app.command()
    def certs(
        directory: Annotated[Path, Argument(help="Folder of the authority, certificates and keys; made if missing.")],
        clients: Annotated[int, Option(help="Number of clients to issue certificates for.")] = 0,
        first_id: Annotated[int, Option(help="Id of the first of these clients; the others count up from it.")] = 0,
        server: Annotated[
            list[str] | None, Option(help="Host name or IP address at which clients reach the server; repeatable.")
        ] = None,
        days: Annotated[float, Option(help="Days for which the certificates are valid.")] = DEFAULT_DAYS,
        authority_days: Annotated[float, Option(help="Days for which a new authority is valid.")] = AUTHORITY_DAYS,
        force: Annotated[bool, Option("--force", help="Replace existing certificates and their keys.")] = False,
        renew: Annotated[bool, Option("--renew", help="Replace existing certificates, and keep their keys.")] = False,
        new_authority: Annotated[
            bool,
            Option("--new-authority", help="Make a new authority beside the existing one; ca.pem then holds both."),
        ] = False,
        drop_old_authority: Annotated[
            bool,
            Option(
                "--drop-old-authority",
                help="Remove the older authority from ca.pem, once no certificate in use is from it.",
            ),
        ] = False,
        revoke: Annotated[
            list[int] | None,
            Option(help="Id of a client whose certificate goes on the revocation list, ca.crl; repeatable."),
        ] = None,
        as_json: Annotated[bool, Option("--json", help="Print one JSON object on stdout.")] = False,
    ) -> None:
        """Issue certificates for the server and clients, from the folder's certificate authority or a new one."""
        with reported(as_json):
            result = issue(
                directory,
                clients=clients,
                first_id=first_id,
                server_names=server or [],
                days=days,
                authority_days=authority_days,
                force=force,
                renew=renew,
                new_authority=new_authority,
                drop_old_authority=drop_old_authority,
                revoke=revoke or [],
            )
        if as_json:
            typer.echo(json_line(result))
        else:
            _print(open_console(), result)


def issue(
    directory: Path,
    *,
    clients: int,
    first_id: int,
    server_names: list[str],
    days: float,
    authority_days: float,
    force: bool,
    renew: bool,
    new_authority: bool = False,
    drop_old_authority: bool = False,
    revoke: Sequence[int] = (),
) -> dict[str, Any]:
    """Issue certificates with the directory's authority or a new one; return the files' names as a JSON object.

    Raises:
        ConfigError: a number or name is not valid, or a file exists already.
    """
    if not 0 <= clients <= _MAX_AT_ONCE:
        raise ConfigError(f"clients must be between 0 and {_MAX_AT_ONCE:,}, not {clients:,}")
    if force and renew:
        raise ConfigError("--force makes new keys, --renew keeps the old ones: give one of them")
    if not (clients or server_names or new_authority or drop_old_authority or revoke):
        raise ConfigError("nothing to issue: give --clients, --server, or both")
    client_ids = range(first_id, first_id + clients)
    if new_authority and drop_old_authority:
        raise ConfigError(
            "give either --new-authority or --drop-old-authority: in between, copy the ca.pem with both to everyone"
        )
    try:
        Authority.check(server_names=server_names, client_ids=client_ids, days=days)
        is_first = not Authority.exists(directory)
        if is_first and (renew or drop_old_authority or revoke):
            raise ConfigError(
                f"{directory} has no authority, so nothing can be renewed or revoked: name the folder that has one"
            )
        authority = Authority.create(directory, days=authority_days) if is_first else Authority(directory)
        if new_authority and not is_first:
            authority = authority.succeed(days=authority_days)
        # Revoke first: issuing replaces the certificate that is to be revoked.
        revoked = authority.revoke(revoke) if revoke else None
        issued = authority.issue(
            server_names=server_names,
            client_ids=client_ids,
            days=days,
            overwrite=force,
            renew=renew,
        )
        if drop_old_authority:
            authority.drop_older()
    except CertificateError as error:
        raise ConfigError(str(error)) from None
    server = issued[0] if server_names else None
    return {
        "directory": str(directory),
        "new_authority": is_first or new_authority,
        "dropped_old_authority": drop_old_authority,
        "authority": str(directory / "ca.pem"),
        "server": None
        if server is None
        else {"certificate": str(server.certificate), "key": str(server.key), "names": server_names},
        "clients": [
            {"id": first_id + index, "certificate": str(files.certificate), "key": str(files.key)}
            for index, files in enumerate(issued[len(issued) - clients :] if clients else ())
        ],
        "days": days,
        "revoked": [] if revoked is None else sorted(set(revoke)),
        "revocation_list": None if revoked is None else str(revoked),
    }


def _print(console: Console, result: dict[str, Any]) -> None:
    def line(text: str) -> None:
        console.print(escape(text), highlight=False, soft_wrap=True)

    directory = Path(result["directory"])
    if result["new_authority"]:
        line(f"authority  {result['authority']}: copy it to everyone; take {directory / 'ca.key'} off this machine")
    elif result["dropped_old_authority"]:
        line(f"authority  {result['authority']}: the new one alone; copy it to everyone")
    if result["server"]:
        names = ", ".join(map(_readable, result["server"]["names"]))
        line(f"server     {result['server']['certificate']}, .key: for {names}")
    clients = result["clients"]
    if clients:
        first, last = clients[0]["id"], clients[-1]["id"]
        which = f"client-{first}" if first == last else f"client-{first} to client-{last}"
        line(f"clients    {directory}: {which} (.pem, .key); give each one its own .key, and everybody all .pem")
    if result["revocation_list"]:
        which = ", ".join(map(str, result["revoked"]))
        line(f"revoked    client {which}: {result['revocation_list']}, for secagg serve --crl")
    if clients or result["server"]:
        line(f"valid for {result['days']:g} days; renew with --renew")


def _readable(name: str) -> str:
    try:
        return f"{ipaddress.ip_address(name)} (IP)"
    except ValueError:
        return name

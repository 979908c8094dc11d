"""`secagg certs`: the certificates of a trial deployment."""

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
    """Add the command to ``app``; ``reported`` shows the user's mistakes the way all commands do."""

    @app.command()
    def certs(
        directory: Annotated[Path, Argument(help="Where authority, certificates and keys are, or are to be.")],
        clients: Annotated[int, Option(help="Clients to issue certificates for.")] = 0,
        first_id: Annotated[int, Option(help="The first client's id; the others follow it.")] = 0,
        server: Annotated[
            list[str] | None, Option(help="Host name or IP address that clients call; may be repeated.")
        ] = None,
        days: Annotated[float, Option(help="How long the certificates are valid.")] = DEFAULT_DAYS,
        authority_days: Annotated[float, Option(help="How long a new authority is valid.")] = AUTHORITY_DAYS,
        force: Annotated[bool, Option("--force", help="Replace certificates and keys that are there.")] = False,
        renew: Annotated[
            bool, Option("--renew", help="Replace certificates that are there, and keep their keys.")
        ] = False,
        new_authority: Annotated[
            bool,
            Option("--new-authority", help="Make a new authority beside the one that is there; ca.pem holds both."),
        ] = False,
        drop_old_authority: Annotated[
            bool, Option("--drop-old-authority", help="Take the older one out of ca.pem, once nothing is from it.")
        ] = False,
        revoke: Annotated[
            list[int] | None,
            Option(help="Put this client's certificate on the revocation list, ca.crl; may be repeated."),
        ] = None,
        as_json: Annotated[bool, Option("--json", help="One JSON object on stdout.")] = False,
    ) -> None:
        """Make a small certificate authority, and server's and clients' certificates; or add to one made before."""
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
    """Issue what was asked for, under the directory's authority or a new one; gives the files as a JSON object.

    Raises:
        ConfigError: numbers or names that cannot be, or files that are there already.
    """
    if not 0 <= clients <= _MAX_AT_ONCE:
        raise ConfigError(f"clients must be between 0 and {_MAX_AT_ONCE:,}, not {clients:,}")
    if force and renew:
        raise ConfigError("--force makes new keys, --renew keeps the old ones: give one of them")
    if not (clients or server_names or new_authority or drop_old_authority or revoke):
        raise ConfigError("nothing to issue: give --clients, --server, or both")
    client_ids = range(first_id, first_id + clients)
    if new_authority and drop_old_authority:
        raise ConfigError("between --new-authority and --drop-old-authority everybody needs the ca.pem with both")
    try:
        Authority.check(server_names=server_names, client_ids=client_ids, days=days)
        is_first = not Authority.exists(directory)
        if is_first and (renew or drop_old_authority or revoke):
            raise ConfigError(f"{directory}: there is no authority whose certificates could be renewed or revoked")
        authority = Authority.create(directory, days=authority_days) if is_first else Authority(directory)
        if new_authority and not is_first:
            authority = authority.succeed(days=authority_days)
        # First: a certificate that is replaced here is the one to revoke.
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
    of_server = issued[0] if server_names else None
    return {
        "directory": str(directory),
        "new_authority": is_first or new_authority,
        "dropped_old_authority": drop_old_authority,
        "authority": str(directory / "ca.pem"),
        "server": None
        if of_server is None
        else {"certificate": str(of_server.certificate), "key": str(of_server.key), "names": server_names},
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

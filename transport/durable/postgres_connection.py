"""Connect a server to its database: check connection strings for passwords, set options, word errors."""

import os
from collections.abc import Mapping
from ipaddress import ip_address
from typing import Any

import psycopg
from psycopg import conninfo, errors

from transport.errors import JournalError, JournalFullError, printable

_MAX_TEXT = 300

# A machine that is gone must lose its lease soon, and this one must notice a database that is gone.
CONNECTION = {
    "application_name": "secagg",
    "connect_timeout": "10",
    "target_session_attrs": "read-write",
    "keepalives_idle": "5",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "20000",
}
SESSION = {
    "tcp_keepalives_idle": "5",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "20000",
    "statement_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "default_transaction_isolation": "read committed",
}


# Parameters of libpq that are secret; the second one opens the key file of a certificate.
_SECRETS = ("password", "sslpassword", "oauth_client_secret")


def holds_password(url: str) -> bool:
    """Return whether a connection string holds a secret. JournalError if it is not valid."""
    given = parsed(url)
    return any(given.get(name) for name in _SECRETS)


def parsed(url: str) -> dict[str, Any]:
    """Return the parameters of a connection string; an error never quotes it, since it may hold a password."""
    advice = "give one of libpq, such as postgresql://USER@HOST/DATABASE, with the password in a password file"
    try:
        given = conninfo.conninfo_to_dict(url)
    except (psycopg.Error, UnicodeError, ValueError):
        raise JournalError(f"the connection string of the database is not valid: {advice}") from None
    # A password with an @, / or : in it that is not escaped ends up in these.
    is_odd = not all(port.isdecimal() or not port for port in str(given.get("port", "")).split(","))
    if is_odd or any("@" in str(given.get(part, "")) for part in ("host", "dbname")):
        raise JournalError(f"host, port or database in the connection string is not valid: {advice}")
    return {name: value for name, value in given.items() if value is not None}


def shown(given: Mapping[str, Any]) -> str:
    """Return a connection string without what may be secret."""
    if "service" in given:
        return printable(f"the database of service {given['service']!r}", 200)
    host, port = given.get("host") or os.environ.get("PGHOST", ""), given.get("port", "")
    dbname = given.get("dbname", "")
    return printable(f"postgresql://{host}{f':{port}' if port else ''}/{dbname}", 200)


def check_encrypted(connection: Any, given: Mapping[str, Any], address: str) -> None:
    """Raise JournalError for a connection in the clear to another machine, unless the user has asked for that.

    libpq's default (``sslmode=prefer``) goes on without TLS if somebody between the machines says that there is none.

    Args:
        connection: an open `psycopg.Connection`.
        given: the parameters of its connection string.
        address: the database, as it is shown.
    """
    sslmode = given.get("sslmode") or os.environ.get("PGSSLMODE", "")
    peer = connection.info.hostaddr
    is_here = connection.info.host.startswith("/") or (peer and ip_address(peer).is_loopback)
    if not (is_here or connection.pgconn.ssl_in_use or sslmode == "disable"):
        raise JournalError(
            f"{address} is on another machine, and the connection is not encrypted: let the database use TLS, and give "
            "sslmode=verify-full (or sslmode=disable if the network in between is protected)"
        )


def journal_error(error: psycopg.Error, name: str, what: str, password: str) -> JournalError:
    """Return the error of a journal for one of the database, without the password."""
    text = " ".join((error.diag.message_primary or str(error) or type(error).__name__).split())
    if password:
        text = text.replace(password, "***")
    kind = JournalFullError if isinstance(error, errors.DiskFull) else JournalError
    return kind(f"{name} {what} ({printable(text, _MAX_TEXT)}): {_remedy(error)}")


def _remedy(error: psycopg.Error) -> str:
    match error:
        case errors.InsufficientPrivilege():
            return "give its user the right to make a schema (GRANT CREATE ON DATABASE), or to use the present one"
        case errors.DiskFull():
            return "make room on the database's disk, then start again to resume"
        case _:
            return "nothing that is not in the database was sent; see to the database, then start again to resume"

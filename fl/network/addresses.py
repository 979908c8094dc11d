"""Network addresses as users write them."""

import asyncio
import socket
from collections.abc import Sequence

from fl.errors import ConfigError
from fl.network.errors import NetworkError
from transport.certificates.host_names import is_host
from transport.tcp.settings import Address


def parse_address(text: str, *, listening: bool = False) -> Address:
    """Parse ``HOST:PORT`` or ``[IPV6]:PORT``; a listener may omit HOST (all addresses) or give port 0 (any free one).

    Raises:
        ConfigError: the text is not an address.
    """
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        host = ""
        colon = ""
    lowest = 0 if listening else 1
    is_port = port.isascii() and port.isdigit() and len(port) <= 5 and lowest <= int(port) <= 65535
    if not colon or not is_port or not (host or listening):
        raise ConfigError(f"an address is HOST:PORT, such as sum.example:7000 or [::1]:7000, not {text!r}")
    if host and not is_host(host):
        raise ConfigError(f"an address is HOST:PORT, and {host!r} is neither a host name nor an IP address")
    return host, int(port)


def parse_addresses(text: str) -> tuple[Address, ...]:
    """Parse addresses of one server, separated by commas; ConfigError as for `parse_address`, or if one comes twice."""
    addresses = tuple(parse_address(part.strip()) for part in text.split(","))
    if len(set(addresses)) < len(addresses):
        raise ConfigError(f"an address of the server is there twice: {text!r}")
    return addresses


def show_addresses(addresses: Sequence[Address]) -> str:
    """Return addresses as text that `parse_addresses` takes."""
    return ",".join(map(show_address, addresses))


def show_address(address: Address) -> str:
    """Return an address as text that `parse_address` takes."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


async def check_hosts(addresses: Sequence[Address]) -> None:
    """Raise NetworkError if the name of a server does not exist; other failures may pass."""
    for host, port in addresses:
        try:
            await asyncio.get_running_loop().getaddrinfo(host, port)
        except socket.gaierror as error:
            if error.errno == socket.EAI_NONAME:
                raise NetworkError(f"there is no host {host}: {error.strerror}; correct the server's HOST") from None

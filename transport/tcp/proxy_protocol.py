"""The PROXY protocol, version 2: in front of TLS, a trusted proxy says where a connection comes from.

Specification: https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt. Version 1, which is text, is not read. What
is said counts only if it comes from an address that the operator has listed: anybody else could claim to be anybody.
"""

import asyncio
import ipaddress
from collections.abc import Sequence
from typing import TypeAlias

from transport.errors import TransportError

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network
"""Addresses of proxies."""

MAX_BODY_BYTES = 4096
"""What may follow the first 16 bytes: at most 216 bytes of addresses, and what proxies add, such as certificates."""

_SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
_HEAD_BYTES = 16
_LOCAL, _PROXY = 0x20, 0x21
_UNSPECIFIED = 0x00
# TCP over IPv4 and IPv6: bytes of one address, and of both with their ports.
_FAMILIES = {0x11: (4, 12), 0x21: (16, 36)}
_TLV_HEAD_BYTES = 3


class ProxyHeaderError(TransportError):
    """A listed proxy sent no header of the PROXY protocol, or a bad one."""


def proxy_networks(text: str) -> tuple[Network, ...]:
    """The proxies' addresses, or networks of them, in a list with commas.

    Raises:
        ValueError: one is none, or is every address there is.
    """
    networks = []
    for item in text.split(","):
        try:
            network = ipaddress.ip_network(item.strip())
        except ValueError:
            raise ValueError(f"{item.strip()!r} is neither an IP address nor a network, such as 10.0.0.0/24") from None
        if not network.prefixlen:
            raise ValueError(f"{network} is everybody: list the proxies' own addresses")
        networks.append(network)
    return tuple(networks)


def is_listed(peer: str, proxies: Sequence[Network]) -> bool:
    """Whether an IP address is a proxy's."""
    return any(ipaddress.ip_address(peer.partition("%")[0]) in network for network in proxies)


async def read_source(reader: asyncio.StreamReader) -> str | None:
    """Read the header. The IP address that the connection comes from; None: from the proxy itself, as a health check.

    Raises:
        ProxyHeaderError: there is none, or a bad one.
        OSError: the connection ended before its first byte.
    """
    try:
        head = await reader.readexactly(_HEAD_BYTES)
        return source_of(head, await reader.readexactly(body_bytes(head)))
    except asyncio.IncompleteReadError as error:
        if not error.partial and error.expected == _HEAD_BYTES:
            raise ConnectionResetError("it ended without a word") from None
        raise ProxyHeaderError("the connection ended within its PROXY header") from None


def body_bytes(head: bytes) -> int:
    """How many bytes follow the first 16 of a header. ProxyHeaderError if they begin none, or one that is too long."""
    if not head.startswith(_SIGNATURE):
        raise ProxyHeaderError("a listed proxy's connection does not begin with a PROXY header of version 2")
    if head[12] not in (_LOCAL, _PROXY):
        raise ProxyHeaderError(f"a PROXY header of version {head[12] >> 4}, command {head[12] & 15}")
    size = int.from_bytes(head[14:], "big")
    if size > MAX_BODY_BYTES:
        raise ProxyHeaderError(f"a PROXY header of {size} more bytes, but at most {MAX_BODY_BYTES} are read")
    return size


def source_of(head: bytes, body: bytes) -> str | None:
    """What the header says. Extensions (TLVs) have to be well-formed, and are not looked at.

    Raises:
        ProxyHeaderError: it is of another protocol than TCP over IP, or cut short.
    """
    family = head[13]
    if head[12] == _LOCAL or family == _UNSPECIFIED:
        # Whatever follows has no meaning.
        return None
    if family not in _FAMILIES:
        raise ProxyHeaderError(f"a PROXY header of family and protocol {family:#04x}, which is not TCP over IP")
    size, of_both = _FAMILIES[family]
    if len(body) < of_both:
        raise ProxyHeaderError(f"a PROXY header of {len(body)} bytes, where addresses and ports take {of_both}")
    _check_extensions(body[of_both:])
    address = ipaddress.ip_address(body[:size])
    # Written in the other way, one client would be two, and all IPv4 clients one network.
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)


def _check_extensions(data: bytes) -> None:
    while data:
        size = _TLV_HEAD_BYTES + int.from_bytes(data[1:_TLV_HEAD_BYTES], "big")
        if len(data) < size:
            raise ProxyHeaderError("a PROXY header whose extension is cut short")
        data = data[size:]

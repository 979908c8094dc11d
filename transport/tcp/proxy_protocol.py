"""The PROXY protocol, version 2: before TLS begins, a trusted proxy sends the source of a connection.

Specification: https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt. Version 1, which is text, is not
supported. A header counts only if it comes from an address that the operator listed, since others could claim any
source.
"""

import asyncio
import ipaddress
from collections.abc import Sequence
from typing import TypeAlias

from transport.errors import TransportError

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network
"""Networks of proxies."""

MAX_BODY_BYTES = 4096
"""Maximum bytes after the first 16: at most 216 of addresses, and extensions such as certificates."""

_SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
_HEAD_BYTES = 16
_LOCAL, _PROXY = 0x20, 0x21
_UNSPECIFIED = 0x00
# TCP over IPv4 and IPv6: bytes of one address, and of both addresses with their ports.
_FAMILIES = {0x11: (4, 12), 0x21: (16, 36)}
_TLV_HEAD_BYTES = 3


class ProxyHeaderError(TransportError):
    """Raised when a listed proxy sent no header of the PROXY protocol, or a malformed one."""


def proxy_networks(text: str) -> tuple[Network, ...]:
    """Parse a comma-separated list of the proxies' addresses or networks.

    Raises:
        ValueError: an item is not an address or network, or contains all addresses.
    """
    networks = []
    for item in text.split(","):
        try:
            network = ipaddress.ip_network(item.strip())
        except ValueError:
            raise ValueError(f"{item.strip()!r} is neither an IP address nor a network such as 10.0.0.0/24") from None
        if not network.prefixlen:
            raise ValueError(f"{network} contains all addresses: list the addresses of the proxies")
        networks.append(network)
    return tuple(networks)


def is_listed(peer: str, proxies: Sequence[Network]) -> bool:
    """Return whether an IP address belongs to a proxy."""
    return any(ipaddress.ip_address(peer.partition("%")[0]) in network for network in proxies)


async def read_source(reader: asyncio.StreamReader) -> str | None:
    """Read the header, and return the source IP address; None if it is the proxy itself, as in a health check.

    Raises:
        ProxyHeaderError: the header is missing or malformed.
        OSError: the connection ended before its first byte.
    """
    try:
        head = await reader.readexactly(_HEAD_BYTES)
        return source_of(head, await reader.readexactly(body_bytes(head)))
    except asyncio.IncompleteReadError as error:
        if not error.partial and error.expected == _HEAD_BYTES:
            raise ConnectionResetError("the connection ended before its first byte") from None
        raise ProxyHeaderError("the connection ended within its PROXY header") from None


def body_bytes(head: bytes) -> int:
    """Return the number of bytes after the first 16 of a header. ProxyHeaderError if it is malformed or too long."""
    if not head.startswith(_SIGNATURE):
        raise ProxyHeaderError("the connection of a listed proxy does not begin with a PROXY header of version 2")
    if head[12] not in (_LOCAL, _PROXY):
        raise ProxyHeaderError(
            f"a PROXY header has version {head[12] >> 4} and command {head[12] & 15}, which are not supported"
        )
    size = int.from_bytes(head[14:], "big")
    if size > MAX_BODY_BYTES:
        raise ProxyHeaderError(f"a PROXY header announces {size} more bytes, but at most {MAX_BODY_BYTES} are accepted")
    return size


def source_of(head: bytes, body: bytes) -> str | None:
    """Return the source in the header. Extensions (TLVs) must be well-formed; their content is ignored.

    Raises:
        ProxyHeaderError: the header is for another protocol than TCP over IP, or is cut short.
    """
    family = head[13]
    if head[12] == _LOCAL or family == _UNSPECIFIED:
        # The bytes after it have no meaning.
        return None
    if family not in _FAMILIES:
        raise ProxyHeaderError(f"a PROXY header has family and protocol {family:#04x}, which is not TCP over IP")
    size, of_both = _FAMILIES[family]
    if len(body) < of_both:
        raise ProxyHeaderError(f"a PROXY header has {len(body)} bytes, but addresses and ports need {of_both}")
    _check_extensions(body[of_both:])
    address = ipaddress.ip_address(body[:size])
    # In the mapped form, one client would count as two, and all IPv4 clients as one network.
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)


def _check_extensions(data: bytes) -> None:
    while data:
        size = _TLV_HEAD_BYTES + int.from_bytes(data[1:_TLV_HEAD_BYTES], "big")
        if len(data) < size:
            raise ProxyHeaderError("an extension of a PROXY header is cut short")
        data = data[size:]

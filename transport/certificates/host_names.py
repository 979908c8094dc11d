"""Which texts can name a host."""

import ipaddress
import re

_MAX_NAME = 253
_LABEL = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?", re.ASCII)
# The last part of a name; of digits, it is a part of an address (RFC 3696, section 2).
_NUMBER = re.compile(r"\d+|0[xX][0-9A-Fa-f]*", re.ASCII)


def ascii_host_name(name: str) -> str | None:
    """The name as certificates and name servers have it, or None where no host can have it.

    Letters beyond ASCII become Punycode, and the dot that ends a full name goes. An underscore passes: names of
    containers have it.
    """
    try:
        # Not of several labels at once, since that does not look at empty ones behind the first.
        labels = [label.encode("idna").decode() for label in name.removesuffix(".").split(".")]
    except UnicodeError:
        return None
    found = ".".join(labels)
    if len(found) > _MAX_NAME or not all(map(_LABEL.fullmatch, labels)) or _NUMBER.fullmatch(labels[-1]):
        return None
    return found


def is_host(text: str) -> bool:
    """Whether it is a name that a host can have, or an IP address."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return ascii_host_name(text) is not None
    return True

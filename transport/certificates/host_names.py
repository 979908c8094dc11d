"""Rules for host names."""

import ipaddress
import re

_MAX_NAME = 253
_LABEL = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?", re.ASCII)
# The last part of a name; if it consists of digits, it belongs to an address (RFC 3696, section 2).
_NUMBER = re.compile(r"\d+|0[xX][0-9A-Fa-f]*", re.ASCII)


def ascii_host_name(name: str) -> str | None:
    """Return the name as certificates and name servers spell it, or None if no host can have it.

    Letters beyond ASCII become Punycode, and a final dot is removed. Underscores are accepted, since names of
    containers have them.
    """
    try:
        # Label by label, since encoding the whole name does not find empty labels after the first.
        labels = [label.encode("idna").decode() for label in name.removesuffix(".").split(".")]
    except UnicodeError:
        return None
    found = ".".join(labels)
    if len(found) > _MAX_NAME or not all(map(_LABEL.fullmatch, labels)) or _NUMBER.fullmatch(labels[-1]):
        return None
    return found


def is_host(text: str) -> bool:
    """Return whether the text is an IP address or a name that a host can have."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return ascii_host_name(text) is not None
    return True

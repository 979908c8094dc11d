"""Whom a networked training's rounds are safe against: the choice, and what malicious mode needs."""

from pathlib import Path

from fl.errors import ConfigError
from secagg import Adversary, GraphKind

ADVERSARIES = ", ".join(adversary.value for adversary in Adversary)
GRAPHS = ", ".join(graph.value for graph in GraphKind)

_GIVES_UP = {
    Adversary.HONEST_BUT_CURIOUS: "a server that lies, or that somebody has broken into, can have any client's update",
    Adversary.SEMI_MALICIOUS: "a server that hands out false keys can have any client's update",
}


def chosen_adversary(text: str | None, *, has_certificates: bool) -> Adversary:
    """What the user wrote; by default malicious, and without certificates, which hold the keys for it, none.

    Raises:
        ConfigError: it is not known.
    """
    if text is None:
        return Adversary.MALICIOUS if has_certificates else Adversary.HONEST_BUT_CURIOUS
    modes = {member.value: member for member in Adversary}
    if text not in modes:
        raise ConfigError(f"adversary {text!r} is not known here; known: {ADVERSARIES}")
    return modes[text]


def what_it_gives_up(adversary: Adversary) -> str | None:
    """One line for a user who chose less than malicious mode."""
    if adversary is Adversary.MALICIOUS:
        return None
    return f"{adversary.value} mode: {_GIVES_UP[adversary]}; malicious mode, the default with --certs, prevents it"


def check_certificates(folder: Path, clients: int) -> None:
    """ConfigError if a folder for malicious mode has fewer clients' certificates than there are clients."""
    there = len(list(folder.glob("client-*.pem")))
    if there < clients:
        raise ConfigError(
            f"malicious mode needs the certificates of all {clients} clients, and {folder} has {there}: copy the "
            "others' client-<id>.pem there (certificates are public, keys are not), or give --directory"
        )

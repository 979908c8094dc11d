"""The adversary that rounds over the network withstand: its choice, and the needs of malicious mode."""

from pathlib import Path

from fl.errors import ConfigError
from secagg import Adversary, GraphKind

ADVERSARIES = ", ".join(adversary.value for adversary in Adversary)
GRAPHS = ", ".join(graph.value for graph in GraphKind)

_GIVES_UP = {
    Adversary.HONEST_BUT_CURIOUS: "a server that lies, or that was broken into, can learn any client's update",
    Adversary.SEMI_MALICIOUS: "a server that hands out false keys can learn any client's update",
}


def chosen_adversary(text: str | None, *, has_certificates: bool) -> Adversary:
    """Return the adversary that the user chose; by default malicious, without certificates honest-but-curious.

    Malicious mode signs with the keys of the certificates.

    Raises:
        ConfigError: the name is unknown.
    """
    if text is None:
        return Adversary.MALICIOUS if has_certificates else Adversary.HONEST_BUT_CURIOUS
    modes = {member.value: member for member in Adversary}
    if text not in modes:
        raise ConfigError(f"unknown adversary {text!r}; known are {ADVERSARIES}")
    return modes[text]


def what_it_gives_up(adversary: Adversary) -> str | None:
    """Return one line about the risk of a weaker mode; None for malicious mode."""
    if adversary is Adversary.MALICIOUS:
        return None
    return f"{adversary.value} mode: {_GIVES_UP[adversary]}; malicious mode, the default with --certs, prevents it"


def check_certificates(folder: Path, clients: int) -> None:
    """Raise ConfigError if a folder for malicious mode lacks certificates of clients."""
    there = len(list(folder.glob("client-*.pem")))
    if there < clients:
        raise ConfigError(
            f"malicious mode needs the certificates of all {clients} clients, and {folder} has {there}: copy all "
            "client-<id>.pem there (certificates are public, keys are not), or give --directory"
        )

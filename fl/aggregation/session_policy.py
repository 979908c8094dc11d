"""What a client asks of a session, in every front: `secagg.SessionPolicy`."""

from typing import Any

from secagg import Adversary, PolicyError, SessionPolicy

__all__ = ["PolicyError", "SessionPolicy", "usual_policy"]


def usual_policy(
    *, has_identity: bool, adversary: Adversary | None = None, min_inputs: int | None = None, **others: Any
) -> SessionPolicy:
    """What a client of Flower or NVFlare asks for, and what the server's side therefore plans.

    Args:
        has_identity: whether the client can sign. By default it then asks for malicious mode and sums of three inputs;
            else it trusts the server to keep to the protocol, and two will do.
        adversary, min_inputs, others: those of `SessionPolicy`, where they are chosen.
    """
    if adversary is None:
        adversary = Adversary.MALICIOUS if has_identity else Adversary.HONEST_BUT_CURIOUS
    if min_inputs is None:
        min_inputs = 3 if has_identity else 2
    return SessionPolicy(adversary=adversary, min_inputs=min_inputs, **others)

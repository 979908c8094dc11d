"""A client's requirements for a session, shared by all fronts: `secagg.SessionPolicy`."""

from typing import Any

from secagg import Adversary, PolicyError, SessionPolicy

__all__ = ["PolicyError", "SessionPolicy", "usual_policy"]


def usual_policy(
    *, has_identity: bool, adversary: Adversary | None = None, min_inputs: int | None = None, **others: Any
) -> SessionPolicy:
    """Return the policy that a client of Flower or NVFlare requires, and that the server plans for.

    Args:
        has_identity: whether the client can sign. If so, the default is malicious mode and sums of at least three
            inputs; otherwise the client trusts the server to follow the protocol, and two inputs are enough.
        adversary, min_inputs, others: fields of `SessionPolicy` that replace the defaults.
    """
    if adversary is None:
        adversary = Adversary.MALICIOUS if has_identity else Adversary.HONEST_BUT_CURIOUS
    if min_inputs is None:
        min_inputs = 3 if has_identity else 2
    return SessionPolicy(adversary=adversary, min_inputs=min_inputs, **others)

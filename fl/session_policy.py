"""What a client asks of a session, in every front: `secagg.SessionPolicy`."""

from secagg import PolicyError, SessionPolicy

__all__ = ["PolicyError", "SessionPolicy"]

"""Moves the protocol's messages: framing, drivers with deadlines, and an in-process network with faults."""

from transport.driver import ClientDriver, Deadlines, ServerDriver
from transport.errors import FrameError, TransportError
from transport.faults import Direction, Fault, FaultSchedule
from transport.framing import FrameDecoder, encode_frame
from transport.memory import ClientReport, Inputs, Observer, SessionReport, run_session
from transport.recovery import RecoveryPool

__all__ = [
    "ClientDriver",
    "ClientReport",
    "Deadlines",
    "Direction",
    "Fault",
    "FaultSchedule",
    "FrameDecoder",
    "FrameError",
    "Inputs",
    "Observer",
    "RecoveryPool",
    "ServerDriver",
    "SessionReport",
    "TransportError",
    "encode_frame",
    "run_session",
]

"""Transport of the protocol's messages: framing, drivers with deadlines, hosts with journals, a network with faults."""

from transport.driver import ClientDriver, Deadlines, KeyedInput, ServerDriver
from transport.durable.client_host import ClientHost
from transport.durable.client_journal import ClientJournal
from transport.durable.frames import EndCode, Offer, RefusalCode
from transport.durable.participation import ClientRecord, Participation
from transport.durable.server_host import SessionHost
from transport.durable.server_journal import Journal
from transport.durable.transfers import HeldAnnouncement
from transport.errors import (
    BudgetSpentError,
    FrameError,
    InputWithheldError,
    JournalError,
    JournalFullError,
    LinkError,
    OlderServerError,
    RepeatedSessionError,
    SessionRefusedError,
    TransportError,
    WorkerLostError,
)
from transport.faults import Direction, Fault, FaultSchedule
from transport.framing import FrameDecoder, encode_frame
from transport.inputs import DeferredInput, PortableInputs
from transport.memory import Announcement, Inputs, Observer, run_session
from transport.recovery import MaskRecovery, RecoveryPool
from transport.session_report import ClientReport, SessionReport
from transport.workers import WorkerPool, Workers

__all__ = [
    "Announcement",
    "BudgetSpentError",
    "ClientDriver",
    "ClientHost",
    "ClientJournal",
    "ClientRecord",
    "ClientReport",
    "Deadlines",
    "DeferredInput",
    "Direction",
    "EndCode",
    "Fault",
    "FaultSchedule",
    "FrameDecoder",
    "FrameError",
    "HeldAnnouncement",
    "InputWithheldError",
    "Inputs",
    "Journal",
    "JournalError",
    "JournalFullError",
    "KeyedInput",
    "LinkError",
    "MaskRecovery",
    "Observer",
    "Offer",
    "OlderServerError",
    "Participation",
    "PortableInputs",
    "RecoveryPool",
    "RefusalCode",
    "RepeatedSessionError",
    "ServerDriver",
    "SessionHost",
    "SessionRefusedError",
    "SessionReport",
    "TransportError",
    "WorkerLostError",
    "WorkerPool",
    "Workers",
    "encode_frame",
    "run_session",
]

"""Secure aggregation: a server learns the sum of many clients' vectors and nothing else.

Sans-IO state machines for the protocol of Bonawitz et al., "Practical Secure Aggregation for Privacy-Preserving
Machine Learning" (CCS 2017).  `Client` and `Server` turn messages into events; your program moves the bytes that
`encode` makes of them.  Start with `plan`, which turns a threat model into `Parameters`.
"""

from secagg._client.phases import ClientPhase
from secagg.client import Client
from secagg.codec import decode_client_message, decode_server_message, encode, encode_parts, max_message_bytes
from secagg.errors import (
    CodecError,
    LocalProtocolError,
    PlanError,
    PolicyError,
    RemoteProtocolError,
    Rule,
    SecAggError,
)
from secagg.events import (
    SERVER,
    Aborted,
    AbortReason,
    ClientDropped,
    Completed,
    Dispute,
    DropReason,
    InputRequested,
    Round,
    Send,
    ShareFault,
    SharesDisputed,
    UnmaskReady,
    rounds_of,
)
from secagg.graph_choice import GraphChoice, cheapest_graph
from secagg.identity import Identity, KeyDirectory, PinnedKeys, TrustOnFirstUse, TrustOnFirstUseWarning
from secagg.messages import ClientMessage, ServerMessage
from secagg.params import Adversary, ClientId, Parameters
from secagg.planner import GraphKind, Plan, plan
from secagg.policy import SessionPolicy
from secagg.primitives.entropy import EntropySource
from secagg.server import Server, ServerPhase, ServerProgress, ServerStatus
from secagg.transcript import TranscriptEntry, TranscriptKind
from secagg.unmask_job import MaskSum, UnmaskJob

__all__ = [
    "SERVER",
    "AbortReason",
    "Aborted",
    "Adversary",
    "Client",
    "ClientDropped",
    "ClientId",
    "ClientMessage",
    "ClientPhase",
    "CodecError",
    "Completed",
    "Dispute",
    "DropReason",
    "EntropySource",
    "GraphChoice",
    "GraphKind",
    "Identity",
    "InputRequested",
    "KeyDirectory",
    "LocalProtocolError",
    "MaskSum",
    "Parameters",
    "PinnedKeys",
    "Plan",
    "PlanError",
    "PolicyError",
    "RemoteProtocolError",
    "Round",
    "Rule",
    "SecAggError",
    "Send",
    "Server",
    "ServerMessage",
    "ServerPhase",
    "ServerProgress",
    "ServerStatus",
    "SessionPolicy",
    "ShareFault",
    "SharesDisputed",
    "TranscriptEntry",
    "TranscriptKind",
    "TrustOnFirstUse",
    "TrustOnFirstUseWarning",
    "UnmaskJob",
    "UnmaskReady",
    "cheapest_graph",
    "decode_client_message",
    "decode_server_message",
    "encode",
    "encode_parts",
    "max_message_bytes",
    "plan",
    "rounds_of",
]

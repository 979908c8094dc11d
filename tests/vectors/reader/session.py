"""Check a session: run it again from the recorded randomness, and compare every step."""

from typing import Any

from . import crypto, wire
from .client import Client
from .errors import Mismatch, Refused, expect
from .server import Server

ROUNDS = ("AdvertiseKeys", "ShareKeys", "MaskedInputCollection", "ConsistencyCheck", "Unmasking")
DRAWS = {"channel_secret_key": 32, "mask_key_seed": 16, "self_mask_seed": 16, "sharing_seed": 16}


def verify_session(session: dict[str, Any]) -> int:
    """Check every message, decision and result; return the number of steps."""
    params = session["parameters"]
    nonce, context = bytes.fromhex(session["nonce"]), bytes.fromhex(session["context"])
    chosen_id = crypto.session_id(params, nonce, context)
    expect("session id", session["session_id"], chosen_id.hex())
    identities = _identities(session)
    rounds = [name for name in ROUNDS if identities or name != "ConsistencyCheck"]
    clients = _clients(session, chosen_id, identities)
    graph_entropy = bytes.fromhex(session["graph_entropy"])
    expect("graph entropy", graph_entropy, crypto.shake_stream(f"{session['name']}/server", len(graph_entropy)))
    server = Server(params, chosen_id, [entry["client_id"] for entry in session["clients"]], identities, graph_entropy)

    last = {entry["client_id"]: entry["vanishes"] for entry in session["clients"]}
    present = {
        client_id: rounds if vanishes is None else rounds[: rounds.index(vanishes)]
        for client_id, vanishes in last.items()
    }
    expect("who started", sorted(clients), sorted(i for i, there in present.items() if there))
    run = _Run(params, session["steps"])
    for name in rounds:
        for client_id, (kind, fields) in server.open_round(name).items():
            there = name in present[client_id]
            data = wire.encode(kind, fields, params["ring_bits"])
            received = run.message(name, kind, "server", client_id, data, delivered=there)
            if there:
                run.rejected(clients[client_id].receive(kind, received))
        for client_id, client in clients.items():
            if name in present[client_id] and client.answer is not None:
                kind, fields = client.answer
                data = wire.encode(kind, fields, params["ring_bits"])
                server.receive(client_id, kind, run.message(name, kind, client_id, "server", data))
                client.answer = None
        run.closed(name, server.close_round(name))
    expect("number of steps", len(session["steps"]), run.at)
    _verify_outcome(session, server)
    return run.at


def _clients(session: dict[str, Any], chosen_id: bytes, identities: dict[int, bytes]) -> dict[int, Client]:
    """Return the clients that started."""
    return {
        entry["client_id"]: Client(session["parameters"], chosen_id, entry, _draws(session, entry), identities)
        for entry in session["clients"]
        if entry["entropy"] is not None
    }


def verify_refusal(case: dict[str, Any], session: dict[str, Any]) -> None:
    """Check that a client after these steps refuses the message, by the same rule."""
    params, client_id = session["parameters"], case["client_id"]
    identities = _identities(session)
    client = _clients(session, bytes.fromhex(session["session_id"]), identities)[client_id]
    for step in session["steps"][: case["before_step"]]:
        if step["kind"] == "message" and step["to"] == client_id and step.get("delivered", True):
            client.receive(*wire.decode(bytes.fromhex(step["message"]), params, from_client=False))
    message = wire.decode(bytes.fromhex(case["message"]), params, from_client=False)
    try:
        client.receive(*message)
    except Refused as refused:
        expect(case["reason"], (case["rule"], case["culprits"]), (refused.rule, refused.culprits))
    else:
        raise Mismatch(f"not refused: {case['reason']}")


def _draws(session: dict[str, Any], entry: dict[str, Any]) -> dict[str, bytes]:
    """Return a client's draws: the start of its stream."""
    sizes = {**DRAWS, "identity_secret_key": 32} if _draws_identity(session) else dict(DRAWS)
    if session["parameters"]["noise_components"]:
        sizes["noise_seed"] = 16
    stream = crypto.shake_stream(f"{session['name']}/client {entry['client_id']}", sum(sizes.values()))
    draws = {}
    for draw, size in sizes.items():
        draws[draw], stream = stream[:size], stream[size:]
    expect("entropy", entry["entropy"], {draw: data.hex() for draw, data in draws.items()})
    return draws


def _draws_identity(session: dict[str, Any]) -> bool:
    """Return whether clients draw an identity: in semi-malicious mode they sign with a key of the session."""
    return bool(session["parameters"]["adversary"] == "semi-malicious")


def _identities(session: dict[str, Any]) -> dict[int, bytes]:
    """Return all clients' identity keys; none in unsigned modes."""
    if _draws_identity(session):
        started = [entry for entry in session["clients"] if entry["entropy"] is not None]
        return {e["client_id"]: crypto.ed25519_public(_draws(session, e)["identity_secret_key"]) for e in started}
    keys: dict[int, bytes] = {}
    if session["parameters"]["adversary"] == "honest-but-curious":
        return keys
    for entry in session["clients"]:
        secret_key = crypto.shake_stream(f"identity {entry['client_id']}", 32)
        expect("identity", entry["identity_secret_key"], secret_key.hex())
        keys[entry["client_id"]] = crypto.ed25519_public(secret_key)
        expect("identity key", entry["identity_key"], keys[entry["client_id"]].hex())
    return keys


class _Run:
    """The recorded steps, one after the other."""

    def __init__(self, params: dict[str, Any], steps: list[dict[str, Any]]) -> None:
        self._params = params
        self._steps = steps
        self.at = 0

    def _next(self) -> dict[str, Any]:
        step = self._steps[self.at]
        expect("number of the step", step["step"], self.at)
        self.at += 1
        return step

    def message(
        self, name: str, kind: str, source: int | str, target: int | str, data: bytes, *, delivered: bool = True
    ) -> wire.Fields:
        """Check that this implementation would send the message too; return what the receiver released."""
        step = self._next()
        found = {key: step[key] for key in ("kind", "round", "type", "from", "to")}
        expect(
            f"step {step['step']}",
            found,
            {"kind": "message", "round": name, "type": kind, "from": source, "to": target},
        )
        expect(f"step {step['step']}, delivered", step.get("delivered", True), delivered)
        sent = step.get("honest_message", step["message"])
        expect(f"step {step['step']}, message", sent, data.hex())
        arrived, fields = wire.decode(bytes.fromhex(step["message"]), self._params, from_client=source != "server")
        expect(f"step {step['step']}, type", arrived, kind)
        expect(f"step {step['step']}, deviation", "deviation" in step, sent != step["message"])
        return fields

    def rejected(self, peers: list[int] | None) -> None:
        """Check the client's reaction to the last message."""
        expect(f"step {self.at - 1}, rejected shares", self._steps[self.at - 1].get("rejected_shares"), peers)

    def closed(self, name: str, dropped: list[tuple[int, str]]) -> None:
        """Check the decisions when the round was closed."""
        step = self._next()
        found = (step["kind"], step["round"], [(drop["client_id"], drop["reason"]) for drop in step["dropped"]])
        expect(f"step {step['step']}", found, ("close_round", name, dropped))


def _verify_outcome(session: dict[str, Any], server: Server) -> None:
    outcome = session["outcome"]
    result = server.outcome()
    expect("outcome", outcome, result)
    inputs = [entry["input"] for entry in session["clients"] if entry["client_id"] in result["survivors"]]
    modulus = 2 ** session["parameters"]["ring_bits"]
    expect("sum of the inputs", outcome["sum"], [sum(column) % modulus for column in zip(*inputs, strict=True)])
    bound = 2 ** session["parameters"]["value_bits"]
    for entry in session["clients"]:
        expect("size of an input", len(entry["input"]), session["parameters"]["vector_length"])
        expect("range of an input", all(0 <= element < bound for element in entry["input"]), True)

"""Shared by the cases of refused messages: a client's state, and small changes."""

from collections.abc import Callable
from typing import Any

from secagg import ClientPhase, RemoteProtocolError, Rule, decode_server_message, encode
from secagg.messages import Message

from .layout import parameters_from
from .replay import SessionFile, client_before, message_of, step_of

SMALL_ORDER_KEY = bytes(32)

Change = Callable[[Any], Message]


class ClientCases:
    """Collects the cases of one client in one session."""

    def __init__(
        self, sessions: dict[str, SessionFile], file: str, client_id: int, found: list[dict[str, Any]]
    ) -> None:
        self._session, self._file, self._client_id, self._found = sessions[file], file, client_id, found
        self._params = parameters_from(self._session["parameters"])
        self.place = self.last("PeerKeys").client_ids.index(client_id)

    def last(self, kind: str) -> Any:
        """Return the last message of this type that the client got."""
        return message_of(self._session, step_of(self._session, kind, "server", self._client_id))

    def __call__(
        self,
        rule: Rule,
        reason: str,
        kind: str,
        change: Change,
        *,
        before: str | None = None,
        after: bool = False,
        culprits: tuple[int, ...] = (),
    ) -> None:
        """Give the client ``change`` of its message of a type, before (after) that of the type ``before``."""
        step = step_of(self._session, before or kind, "server", self._client_id)["step"] + after
        data = encode(change(self.last(kind)), self._params)
        client = client_before(self._session, self._client_id, step)
        try:
            client.receive(decode_server_message(data, self._params))
        except RemoteProtocolError as error:
            if (error.rule, error.culprits) != (rule, culprits) or client.phase is not ClientPhase.ABORTED:
                raise AssertionError(f"{reason}: {error!r}") from error
        else:
            raise AssertionError(f"{reason}: nothing was refused")
        self._found.append(
            {
                "session": self._file,
                "client_id": self._client_id,
                "before_step": step,
                "reason": reason,
                "message": data,
                "error": "RemoteProtocolError",
                "rule": rule.name,
                "culprits": list(culprits),
            }
        )


def with_item(items: bytes, place: int, item: bytes) -> bytes:
    """Return the concatenated items, one of them replaced."""
    at = place * len(item)
    return items[:at] + item + items[at + len(item) :]


def flipped(data: bytes, at: int = 0) -> bytes:
    """Return the bytes with one bit changed."""
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def with_flag(flags: tuple[bool, ...], place: int, value: bool) -> tuple[bool, ...]:
    """Return the flags, one of them replaced."""
    return (*flags[:place], value, *flags[place + 1 :])


def only(count: int, place: int) -> tuple[bool, ...]:
    """Return flags of which one is set."""
    return tuple(at == place for at in range(count))

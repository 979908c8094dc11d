"""Errors of the transport (`secagg.errors` has those of the protocol), and a function that makes text printable."""

MAX_ERROR_TEXT = 2000
"""Maximum length of an error's text, in characters."""


def printable(text: str, limit: int = 200) -> str:
    """Return the text on one line of at most ``limit`` characters, without characters that control a terminal.

    Control characters, line breaks, invisible marks, marks that change the direction of writing, and halves of
    surrogate pairs become Python escapes such as ``\\x1b``. Other text is unchanged.
    """
    # Characters beyond the limit are not examined.
    shown = "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in text[: limit + 1]
    )
    return shown if len(shown) <= limit else f"{shown[: limit - 3]}..."


class TransportError(Exception):
    """Base of the errors that this package raises on purpose.

    The text is safe to show: parts of it that the other side wrote are made printable.
    """

    def __str__(self) -> str:
        return printable(super().__str__(), MAX_ERROR_TEXT)


class FrameError(TransportError):
    """Raised for bytes that are not intact frames. Later bytes cannot be trusted: close the connection."""


class LinkError(TransportError):
    """Raised for a payload that is not a message of the link protocol, or is out of turn: close the connection."""


class SessionRefusedError(TransportError):
    """Raised when this client does not take part in the session, or cannot go on; raise it in ``accept`` to decline.

    Attributes:
        code: the server's code (`transport.durable.frames.RefusalCode`), or None if the client itself declined.
        retry_after: seconds for which the server does not want to be asked again.
        told: the client's reason for the server's operator: only public facts. With "" the server learns that the
            client declines and not why; with None, the default, it learns nothing.
    """

    def __init__(self, text: str, code: int | None = None, *, retry_after: int = 0, told: str | None = None) -> None:
        super().__init__(text, code)
        self.code = code
        self.retry_after = retry_after
        self.told = told

    def __str__(self) -> str:
        return printable(str(self.args[0]), MAX_ERROR_TEXT)


class RepeatedSessionError(SessionRefusedError):
    """Raised when the server asks for a session, or a round, in which this client has taken part before.

    The client's part in the session has ended; it may take part in a session of a later round. The server is not told,
    since it would learn of sessions with other servers.
    """


class OlderServerError(SessionRefusedError):
    """Raised when the server speaks only older versions than this client; it may be upgraded, so ask again later."""


class BudgetSpentError(RepeatedSessionError):
    """Raised when this client has answered the maximum number of rounds that it was given; it answers no more."""


class InputWithheldError(TransportError):
    """Raise this instead of returning a client's input, if there is none that may be sent: the client then leaves.

    The server sees a client that vanished before its masked input; the text stays on the client's side.
    """


class WorkerLostError(TransportError):
    """Raised when a worker of a simulated session ends, or cannot be started: the clients that it held are lost."""


class JournalError(TransportError):
    """Raised for a journal that cannot be used or written; the text says what to do. Nothing was overwritten.

    The host cannot be used after it. It sent nothing that is not on the disk, so start again and resume.
    """


class JournalFullError(JournalError):
    """Raised when the disk has no room for a journal or a record: make room, then start again and resume."""

"""Errors of moving messages, as opposed to those of the protocol in `secagg.errors`; others' text made printable."""

MAX_ERROR_TEXT = 2000
"""Characters of an error's text, at most."""


def printable(text: str, limit: int = 200) -> str:
    """The text on one line of at most ``limit`` characters, in which nothing acts on whatever shows it.

    Control characters, line breaks, marks that change the direction of writing or cannot be seen, and halves of
    surrogate pairs stand there as Python would write them, such as ``\\x1b``. Other text stays as it is.
    """
    # What is cut off anyway is not looked at.
    shown = "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in text[: limit + 1]
    )
    return shown if len(shown) <= limit else f"{shown[: limit - 3]}..."


class TransportError(Exception):
    """Base of the errors that this package raises on purpose.

    Its text can be shown as it is: what the other side wrote into it is made printable.
    """

    def __str__(self) -> str:
        return printable(super().__str__(), MAX_ERROR_TEXT)


class FrameError(TransportError):
    """A byte stream that is no sequence of intact frames. Nothing after it can be trusted: close the connection."""


class LinkError(TransportError):
    """A payload that is no message of the link protocol, or one that is out of turn: close the connection."""


class SessionRefusedError(TransportError):
    """This client takes no part in the session, or no part any more; raise it in ``accept`` to decline an offer.

    Attributes:
        code: the server's code (`transport.durable.frames.RefusalCode`), or None where the client itself declined.
        retry_after: seconds before which the server does not want to be asked again.
        told: what the server's operator is told of a client's own reasons: nothing but what is public, or "" to say
            that it declines and not why; by default not even that.
    """

    def __init__(self, text: str, code: int | None = None, *, retry_after: int = 0, told: str | None = None) -> None:
        super().__init__(text, code)
        self.code = code
        self.retry_after = retry_after
        self.told = told

    def __str__(self) -> str:
        return printable(str(self.args[0]), MAX_ERROR_TEXT)


class RepeatedSessionError(SessionRefusedError):
    """The server asks for a session, or a round, in which this client has taken part before.

    The client's part in it is over; another session, of a later round, it may take part in. The server is not told: it
    would learn of sessions with others.
    """


class OlderServerError(SessionRefusedError):
    """The server speaks only older versions than this client: it may be upgraded, so ask again later."""


class BudgetSpentError(RepeatedSessionError):
    """This client has answered as many rounds as it was told to, and answers no more."""


class InputWithheldError(TransportError):
    """Raise it where a client's input is asked for, and the client leaves instead: it has none that may be sent.

    To the server it is a client that vanished before its masked input; its text stays on the client's side.
    """


class JournalError(TransportError):
    """A journal that cannot be used, or could not be written; its text says what to do. Nothing was overwritten.

    After it, a host is dead: nothing that is not on the disk was sent. Start again and resume.
    """


class JournalFullError(JournalError):
    """The disk has no room for a journal, or a record: once there is some, starting again and resuming goes on."""

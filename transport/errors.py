"""Errors of moving messages, as opposed to those of the protocol in `secagg.errors`."""


class TransportError(Exception):
    """Base of the errors that this package raises on purpose."""


class FrameError(TransportError):
    """A byte stream that is no sequence of intact frames. Nothing after it can be trusted: close the connection."""

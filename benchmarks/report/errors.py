"""What goes wrong outside."""


class ReportError(Exception):
    """No report can be made; the message says why, in one line."""

"""The starter project of `secagg new`: a model, data, settings and a test, each to be replaced by the user's own."""

from fl.commands.starter.writer import write_project

__all__ = ["write_project"]

"""`secagg new`: a project to start from, with a model, data, settings and a test that are all there to be replaced."""

from fl.commands.starter.writer import write_project

__all__ = ["write_project"]

"""Show a run: a picture of its rounds, an HTML page, and TensorBoard's event files."""

from fl.report.plot import save_plot

__all__ = ["save_plot"]

"""What is left to look at when a run is over: the figure, the page, and TensorBoard's event files."""

from fl.report.plot import save_plot

__all__ = ["save_plot"]

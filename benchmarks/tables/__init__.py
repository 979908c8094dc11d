"""Figures that do not come from a run of ours: those that others published, and those that ours must not fall below."""

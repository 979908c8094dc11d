"""The commands of `secagg`, one module each."""

"""The commands of `secagg`, one file each."""

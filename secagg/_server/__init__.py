"""The server's machine: one file for each round, and the recovery of shared secrets."""

"""The server's machine: one file a round, and the recovery of the secrets that were shared."""

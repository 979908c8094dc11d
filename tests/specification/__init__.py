"""Writes the generated parts of docs/protocol.md and docs/wire-format.md: state tables and dumps of messages.

    python -m tests.specification

Everything is observed: real machines are driven through real sessions, with seeded randomness, and halted in each
phase; then each message and call is tried on them, and what happens is written down.
"""

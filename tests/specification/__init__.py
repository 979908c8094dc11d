"""Generate the state tables of docs/protocol.md and the dumps of docs/wire-format.md: `make generated`.

Everything is observed: real machines are driven through real sessions, with seeded randomness, and halted in each
phase; then each message and call is tried on them, and the result is written down.
"""

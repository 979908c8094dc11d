"""Differential privacy of sums: noise that the clients add before they mask, its accounting, planning and ledger."""

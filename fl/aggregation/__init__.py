"""Encoding of updates as integers, and their secure and plain aggregation."""

"""Secure aggregation inside other frameworks: one package each, and what they share."""

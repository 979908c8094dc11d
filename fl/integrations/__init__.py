"""Secure aggregation inside other frameworks: one package for each, and the modules that they share."""

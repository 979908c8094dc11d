"""Certificates of a deployment: how they are read, issued and reloaded."""

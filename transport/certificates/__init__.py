"""Certificates of a deployment: reading, issuing and reloading them."""

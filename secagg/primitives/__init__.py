"""Thin wrappers over pyca/cryptography, one primitive in each file. Bytes in, bytes out."""

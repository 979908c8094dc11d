"""Thin wrappers over pyca/cryptography, one primitive a file. Bytes in, bytes out."""

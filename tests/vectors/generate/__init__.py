"""What the test vectors are made of, one module a file or a purpose."""

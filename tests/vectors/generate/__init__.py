"""Sources of the test vectors, one module for each file or purpose."""

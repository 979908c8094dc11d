"""Flower plain, with its own SecAgg+, and with secagg: one model, the same data, the same rounds."""

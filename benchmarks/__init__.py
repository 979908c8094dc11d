"""What secagg costs, beside the raw primitives, the paper's figures and its peers. See README.md in this folder."""

import os

# "On one core" shall hold for the matrix products too, and a product that waits for a thread on a busy core tells
# nothing. OpenBLAS reads this when numpy is loaded, so it stands where everything of this package passes first.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

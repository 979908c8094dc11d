"""The costs of secagg, compared with raw primitives, the paper's figures and other libraries; see README.md."""

import os

# Matrix products too must use one core only: a product that waits for a thread on a busy core measures nothing.
# OpenBLAS reads this when numpy is loaded, so it is set in this package's first module.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

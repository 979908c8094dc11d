"""`python -m tests.specification`."""

from .documents import write

if __name__ == "__main__":
    write()

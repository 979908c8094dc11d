"""`python -m tools.specification`."""

from .documents import write

if __name__ == "__main__":
    write()

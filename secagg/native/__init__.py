"""Machine code for the two inner loops of the protocol: masks, and packing. Optional; needs the extra ``fast``.

numpy and pyca/cryptography do the same work without it, with the same results. Callers ask for a function, check it
once against their own path, and keep to that path if there is none.
"""

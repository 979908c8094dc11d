"""Cases of arithmetic: Shamir's scheme, errors in its shares, packed vectors."""

from typing import Any

import numpy as np

from secagg import sharing
from secagg.algebra import packing as packing_module
from secagg.algebra import reed_solomon as decoder
from secagg.algebra import ring, shamir
from secagg.algebra.field import PRIME

from .entropy import Stream


def shamir_shares(stream: Stream) -> dict[str, Any]:
    """Return shares of a seed, and the seed from some of them."""
    cases = []
    for holders, threshold in ((2, 2), (3, 2), (5, 3), (7, 4), (9, 9), (300, 3)):
        seed = stream(16)
        limbs = sharing.seed_to_limbs(seed)
        coefficients = sharing.uniform_field_elements(9 * (threshold - 1), stream).reshape(-1, 9)
        shares = shamir.share(limbs, coefficients, holders)
        shown = list(range(holders)) if holders < 10 else [0, 1, 254, 255, 299]
        # The last ones, in descending order: any holders in any order will do.
        places = shown[: -threshold - 1 : -1]
        if sharing.reconstruct_seeds(np.array(places), shares[places][:, None, :]) != [seed]:
            raise AssertionError("shares do not give their secret back")
        cases.append(
            {
                "seed": seed,
                "threshold": threshold,
                "num_holders": holders,
                "coefficients": coefficients.tolist(),
                "shares": [{"place": place, "share": shares[place].tolist()} for place in shown],
                "reconstruct_from": places,
            }
        )
    return {
        "description": "a seed's limbs are the constant terms of 9 polynomials, row i of coefficients has those of "
        "x^(i+1); the holder in place p gets their values at p + 1; the seed from exactly t shares",
        "source": "Shamir 1979, over the integers modulo 65521",
        "cases": cases,
    }


def reed_solomon(stream: Stream) -> dict[str, Any]:
    """Return values of a polynomial, some of them wrong."""
    cases = []
    for points, dimension, wrong in (
        ([1, 2, 3, 4, 5, 6], 4, [2]),
        ([1, 2, 4, 5, 7, 8, 9], 3, [0, 6]),
        ([1, 2, 3, 4, 5], 3, []),
        ([2, 3, 5, 7, 11, 13, 17, 300, 65520], 3, [1, 4, 7]),
        ([1, 2, 3, 4, 5, 6], 4, [1, 3]),
        ([1, 2, 3, 4], 4, []),
    ):
        coefficients = sharing.uniform_field_elements(dimension, stream).tolist()
        values = [sum(c * pow(x, power, PRIME) for power, c in enumerate(coefficients)) % PRIME for x in points]
        offsets = sharing.uniform_field_elements(len(wrong), stream).tolist()
        for index, offset in zip(wrong, offsets, strict=True):
            values[index] = (values[index] + max(1, offset)) % PRIME
        held = np.ones((1, len(points)), dtype=bool)
        word = np.array([values], dtype=np.uint64)
        (errors,), (found,) = decoder.find_errors(np.array(points, dtype=np.uint64), held, word, dimension)
        positions = np.flatnonzero(errors).tolist() if found else None
        if positions != (wrong if 2 * len(wrong) <= len(points) - dimension else None):
            raise AssertionError("errors were not found")
        cases.append({"points": points, "values": values, "threshold": dimension, "wrong": positions})
    return {
        "description": "the indices of the values that are not on the one polynomial of a degree below the threshold t "
        "that all but at most (r - t) / 2 of the r values are on; null: there is none",
        "source": "McEliece and Sarwate 1981",
        "cases": cases,
    }


def packing(stream: Stream) -> dict[str, Any]:
    """Return vectors as bit strings."""
    cases = []
    for ring_bits in (1, 3, 7, 8, 12, 15, 16, 20, 26, 31, 32, 33, 48, 57, 63, 64):
        top = (1 << ring_bits) - 1
        elements = [top, 0, 1, *stream.integers(8, ring_bits), top]
        packed = packing_module.pack(np.array(elements, dtype=ring.word_dtype(ring_bits)), ring_bits).tobytes()
        cases.append({"ring_bits": ring_bits, "elements": elements, "packed": packed})
    return {
        "description": "element i fills bits [i b, (i+1) b) of a string, least significant first, in bytes least "
        "significant bit first; zeros pad the last byte",
        "source": "docs/wire-format.md",
        "cases": cases,
    }

"""One of three processes that run MPyC's protocols on word-sized arrays: ``protocol_party.py JOB`` (JSON).

Prints one JSON object of results, and asserts that they are right.
"""

from __future__ import annotations

import asyncio
import json
import os
import pickle
import sys
from typing import Any

import numpy as np

from fl.encrypted.engine import start_engine
from fl.encrypted.steps import WIDEST


async def check(mpc: Any, integers: Any) -> dict[str, int]:
    """Run each protocol on secrets of party 1."""
    await mpc.start()
    rng = np.random.default_rng(7)
    checked = {}
    for bits in (2, 12, WIDEST):
        most = 2 ** (bits - 1)
        values = np.concatenate(([-most, most - 1, -1, 0, 1][:: 1 if bits > 2 else 2], rng.integers(-most, most, 500)))
        secret = await mpc.gather(mpc.input(integers(bits).array(values), senders=1))
        secure = integers(bits).array(secret)
        negative = await mpc.output(mpc.np_sgn(secure, l=bits, LT=True))
        assert (negative == (values < 0)).all()
        zero = await mpc.output(mpc.np_sgn(secure, l=bits, EQ=True))
        assert (zero == (values == 0)).all()
        assert ((await mpc.np_is_zero_public(secure)) == (values == 0)).all()
        product = await mpc.output(mpc.np_multiply(secure, secure))
        assert (product == values * values).all()
        for drop in {1, bits // 2, bits - 1}:
            truncated = await mpc.output(mpc.np_trunc(secure, f=drop, l=bits))
            assert (np.abs(truncated - values / 2.0**drop) <= 1).all()
        checked[f"{bits} bits"] = len(values)
    matrix = rng.integers(-(2**20), 2**20, (30, 40))
    secure = integers(2).array(await mpc.gather(mpc.input(integers(2).array(matrix), senders=0)))
    other = integers(2).array(await mpc.gather(mpc.input(integers(2).array(matrix.T.copy()), senders=2)))
    assert ((await mpc.output(mpc.np_matmul(secure, other))) == matrix @ matrix.T).all()
    rows = rng.integers(-5, 5, (60, 10))
    ties = integers(5).array(await mpc.gather(mpc.input(integers(5).array(rows), senders=1)))
    # The first of equals, as in numpy.
    assert ((await mpc.output(mpc.np_argmax(ties, axis=1))) == rows.argmax(axis=1)).all()
    bits_drawn = await mpc.output(await mpc.np_random_bits(integers(2).field, 4000))
    ones = int(np.sum(np.asarray(bits_drawn.value, dtype=object)))
    assert set(np.asarray(bits_drawn.value, dtype=object).tolist()) == {0, 1}
    only_one = await mpc.output(ties, receivers=[2])
    assert (only_one is not None) == (mpc.pid == 2)
    await mpc.shutdown()
    return {**checked, "ones": ones}


def main() -> None:
    job = pickle.loads(bytes.fromhex(sys.argv[1]))  # noqa: S301 - from the test
    mpc, integers = start_engine(job)
    os.chdir(job.folder)
    result = mpc.run(asyncio.wait_for(check(mpc, integers), 100))
    print(json.dumps(result))  # noqa: T201


if __name__ == "__main__":
    main()

"""Setup of MPyC for one party: options, runtime, and secure integers.

MPyC reads its options from the command line when it is first imported, so it is imported here, after the options are
set.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from fl.encrypted.jobs import PARTIES, Job
from fl.encrypted.residues import MODULUS
from fl.encrypted.steps import STATISTICAL_SECURITY, statistical_security


def start_engine(job: Job) -> tuple[Any, Callable[[int], Any]]:
    """Return a runtime, not yet connected, and a function: bits -> secure integers of that width, modulo p.

    The function also sets the width of masks to the room that the bits leave, so one protocol must end before the next
    one calls it.
    """
    sys.argv = [sys.argv[0], "--no-log", "-K", str(STATISTICAL_SECURITY), *(["--ssl"] if job.tls else [])]
    import mpyc
    import mpyc.runtime

    options = mpyc._get_arg_parser().parse_known_args()[0]
    options.threshold = (PARTIES - 1) // 2
    options.no_async = False
    parties = [mpyc.runtime.Party(party, "127.0.0.1", port) for party, port in enumerate(job.ports)]
    make_integers: Callable[[int], Any]
    if job.arithmetic == "objects":
        runtime = _known_to_mpyc(mpyc.runtime.Runtime(job.party, parties, options))
        make_integers = _plain_integers
    else:
        from fl.encrypted.vector_runtime import VectorRuntime, vector_integers

        # The parties deal random numbers. MPyC would expand them from common keys, one by one.
        options.no_prss = True
        runtime = _known_to_mpyc(VectorRuntime(job.party, parties, options))
        make_integers = vector_integers

    def integers(bits: int) -> Any:
        options.sec_param = statistical_security(bits)
        return make_integers(bits)

    return runtime, integers


def _known_to_mpyc(runtime: Any) -> Any:
    """Install the runtime in MPyC's modules, as `mpyc.runtime.setup` does with its own."""
    from mpyc import asyncoro, mpctools, random, secgroups, seclists, secpols, sectypes, statistics

    for module in (asyncoro, mpctools, random, seclists, secgroups, secpols, sectypes, statistics):
        module.runtime = runtime
    return runtime


def _plain_integers(bits: int) -> Any:
    from mpyc import sectypes

    return sectypes.SecInt(bits, p=MODULUS)

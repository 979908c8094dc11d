"""Settings shared by all suites."""

import atexit
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from tests.support import postgres as postgres_server

settings.register_profile("local", deadline=None, suppress_health_check=[HealthCheck.too_slow])
# Nobody watches a continuous build: a failure there must come from the change, so the examples repeat.
settings.register_profile("ci", settings.get_profile("local"), derandomize=True, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if "CI" in os.environ else "local"))

# Clients' records of participation are kept in the user's own folder; tests and their processes use another.
os.environ["XDG_STATE_HOME"] = tempfile.mkdtemp(prefix="secagg-tests-state-")
atexit.register(shutil.rmtree, os.environ["XDG_STATE_HOME"], ignore_errors=True)

# A shell ignores SIGINT in background jobs, and so would the programs that tests start to interrupt them.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def postgres() -> Iterator[postgres_server.Cluster]:
    """Run a PostgreSQL server for the tests of this process; skip those that ask for it where there is none."""
    with postgres_server.cluster() as running:
        yield running

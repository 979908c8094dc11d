"""Settings that every suite shares."""

import atexit
import os
import shutil
import signal
import tempfile

from hypothesis import HealthCheck, settings

settings.register_profile("local", deadline=None, suppress_health_check=[HealthCheck.too_slow])
# Nobody watches a continuous build: there a failure must come from the change, so the examples repeat.
settings.register_profile("ci", settings.get_profile("local"), derandomize=True, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if "CI" in os.environ else "local"))

# What clients take part in is kept in the user's own folder; tests, and the processes that they start, have another.
os.environ["XDG_STATE_HOME"] = tempfile.mkdtemp(prefix="secagg-tests-state-")
atexit.register(shutil.rmtree, os.environ["XDG_STATE_HOME"], ignore_errors=True)

# A shell's background jobs have SIGINT ignored, and so would have the programs that tests start to interrupt them.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

"""Modules in the working directory: child processes, which receive secrets, must not run them."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.live

REPOSITORY = Path(__file__).resolve().parents[2]

RECOVERY = """
from tests.transport.test_recovery import job_of
from transport import recovery

recovery._WORTH_STARTING = recovery._WORTH_SENDING = 1
job = job_of(2, 9)
with recovery.RecoveryPool(2) as pool:
    pool.start()
    (child,) = pool._children
    child.send(job)
    assert child.receive().vector.tolist() == job.run().vector.tolist()
"""

CLIENTS = """
from tests.support.sessions import make_params, random_inputs
from transport import WorkerPool, run_session, workers

workers._WORTH_STARTING = workers._WORTH_SENDING = 0
params = make_params(num_clients=5)
inputs = random_inputs(params, range(5))
with WorkerPool(2) as pool:
    report = run_session(params, inputs.__getitem__, client_ids=range(5), pool=pool)
    assert len(pool.process_ids) == 2
assert report.outcome.included == tuple(range(5))
"""

TRAINING = """
from fl.__main__ import main

sys.argv[1:] = ["train", "--dataset", "digits", "--clients", "3", "--rounds", "1", "--epochs", "1",
                "--engine", "processes", "--workers", "2", "--out", sys.argv[1]]
main()
"""

EXPERIMENTS = """
from tests.fl.experiments.arms import NotingArm, run_in

if __name__ == "__main__":
    results = run_in(Path(sys.argv[1]), NotingArm(name="one"), NotingArm(name="two"), jobs=2)
    assert {result["headline"] for result in results.values()} == {"noted"}
    assert os.getpid() not in {result["process"] for result in results.values()}
"""

ENCRYPTED = """
from fl.encrypted.errors import EncryptedEvaluationError
from fl.encrypted.jobs import Job, ModelInput
from fl.encrypted.processes import PartyProcesses

model = ModelInput(path="no-such-model", name="logistic", calibration=None, data_dir=None)
job = Job(party=0, ports=(1, 2, 3), folder=sys.argv[1], tls=False, arithmetic="words", model=model)
with PartyProcesses([job]) as parties:
    try:
        parties.run(print, 60)
    except EncryptedEvaluationError as error:
        assert "no-such-model" in str(error), error
    else:
        raise AssertionError("it found a model")
"""

# Naming one's own model puts the working directory on the path.
OWN_CODE = RECOVERY.replace(
    "from transport import recovery",
    "from transport import recovery\nfrom fl.learning.own_code import load_reference\n"
    'assert load_reference("my_models:make", "model")() == "mine"',
)


@pytest.mark.parametrize(
    "program",
    [RECOVERY, CLIENTS, OWN_CODE, TRAINING, EXPERIMENTS, ENCRYPTED],
    ids=["recovery", "clients", "own", "training", "experiments", "encrypted"],
)
def test_children_do_not_import_from_the_working_directory(tmp_path, program):
    if program is ENCRYPTED and importlib.util.find_spec("mpyc") is None:
        pytest.skip("needs MPyC")
    planted = tmp_path / "planted"
    for name in ("secagg", "transport", "fl", "multiprocessing"):
        (planted / name).mkdir(parents=True)
        (planted / name / "__init__.py").write_text("open(__file__ + '.ran', 'w').close()\n")
    (planted / "my_models.py").write_text("def make():\n    return 'mine'\n")
    # In another folder, as for a console script: Python puts a script's own folder first.
    script = tmp_path / "scripts" / "main.py"
    script.parent.mkdir()
    script.write_text("import os, sys\nfrom pathlib import Path\n" + program)
    done = subprocess.run(  # noqa: S603 - our own program
        [sys.executable, str(script), str(tmp_path / "out")],
        cwd=planted,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(REPOSITORY), *sys.path[1:]]), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert not list(planted.rglob("*.ran"))
    assert done.returncode == 0, done.stderr

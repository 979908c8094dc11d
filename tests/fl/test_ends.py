"""The ends of commands: by Ctrl-C while they load, with a full disk, and with own code that prints or exits."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from fl.commands.output import reported
from tests.fl.runs import REPOSITORY, command, environment, invoke, own_module
from transport import processes

pytestmark = pytest.mark.live

PLAN = ("plan", "--clients", "5")
TRAIN = ("train", "--clients", "3", "--rounds", "1", "--epochs", "1", "--model", "logistic")


def run(
    *arguments: str, before: str = "", stdout: str | None = None, **changes: str
) -> subprocess.CompletedProcess[str]:
    """Run the command line in a separate process, after ``before`` has run there; stdout may go to a file."""
    program = [sys.executable, "-c", f"{before}\nfrom fl.__main__ import main\nmain()", *arguments]
    with open(stdout, "w") if stdout else open("/dev/null") as file:
        return subprocess.run(  # noqa: S603 - our own program
            program,
            stdout=file if stdout else subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            timeout=100,
            cwd=REPOSITORY,
            env={**environment(), **changes},
        )


INTERRUPT_AT = """
import os, signal, sys
class Interrupting:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == {name!r}:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupting)
"""


@pytest.mark.parametrize(("module", "as_json"), [("fl.commands.app", False), ("typer", True), ("fl.runs.rounds", True)])
def test_ctrl_c_while_modules_load_is_a_line(module: str, as_json: bool) -> None:
    done = run(*TRAIN, *(["--json"] if as_json else []), before=INTERRUPT_AT.format(name=module))
    assert (done.returncode, done.stderr) == (130, "error: interrupted\n")
    assert (json.loads(done.stdout)["error"] == "interrupted") if as_json else not done.stdout


SWALLOWS = INTERRUPT_AT + "signal.signal(signal.SIGINT, signal.SIG_IGN)"


def test_a_background_job_keeps_ignoring_ctrl_c() -> None:
    done = run(*PLAN, "--json", before=SWALLOWS.format(name="typer"))
    assert (done.returncode, json.loads(done.stdout)["threshold"]) == (0, 3)


@pytest.mark.parametrize(
    ("arguments", "unbuffered"),
    [
        (PLAN, ""),
        (PLAN, "1"),
        ((*PLAN, "--json"), ""),
        ((*PLAN, "--json"), "1"),
        (("--help",), ""),
        (TRAIN, ""),
        ((*TRAIN, "--json"), "1"),
    ],
)
def test_a_full_disk_under_stdout_is_a_line(arguments: tuple[str, ...], unbuffered: str) -> None:
    done = run(*arguments, stdout="/dev/full", PYTHONUNBUFFERED=unbuffered)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "error: cannot write: No space left on device"
    assert done.stderr.count("error") == 1
    assert "Traceback" not in done.stderr


def test_a_mistake_is_reported_once_if_stdout_is_full() -> None:
    done = run("train", "--rounds", "0", "--json", stdout="/dev/full")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "rounds must be at least 1" in done.stderr


def test_the_json_object_comes_even_if_stderr_is_full() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(  # noqa: S603 - our own program
            command("train", "--rounds", "0", "--json"), stdout=subprocess.PIPE, stderr=full, text=True, timeout=60,
            cwd=REPOSITORY, env=environment(),
        )  # fmt: skip
    assert done.returncode == 1
    assert "rounds must be at least 1" in json.loads(done.stdout)["error"]


OWN = """
import os, subprocess
import torch
from torch import nn
from fl.data import Dataset
print("imported")

def data(data_dir):
    print("loading")
    x = torch.randn(80, 5, generator=torch.Generator().manual_seed(1))
    y = (x[:, 0] > 0).long()
    return Dataset("table", x[:60], y[:60], x[60:], y[60:], 2)

def leaving_data(data_dir):
    raise SystemExit("no licence file")

class Noisy(nn.Module):
    def __init__(self, leaves):
        super().__init__()
        self.layer, self.leaves = nn.Linear(5, 2), leaves

    def forward(self, examples):
        print("forward")
        os.write(1, b"from C\\n")
        subprocess.run(["echo", "from a child"])
        if self.training and self.leaves:
            raise SystemExit("enough")
        return self.layer(examples)

def model(shape, classes):
    return Noisy(False)

def leaving(shape, classes):
    return Noisy(True)

def odd(shape, classes):
    raise BaseException("odd")
"""


@pytest.mark.parametrize(
    ("engine", "model", "data", "said"),
    [
        ("processes", "model", "data", None),
        ("serial", "leaving", "data", "SystemExit: enough"),
        ("serial", "odd", "data", "BaseException: odd (own_printing.py, line"),
        ("serial", "model", "leaving_data", "SystemExit: no licence file (own_printing.py, line"),
    ],
)
def test_own_code_may_print_and_exit_and_stdout_is_one_object(
    tmp_path: Path, engine: str, model: str, data: str, said: str | None
) -> None:
    (tmp_path / "own_printing.py").write_text(OWN)
    done = run(
        *("train", "--json", "--clients", "3", "--rounds", "1", "--epochs", "1", "--engine", engine),
        *("--model", f"own_printing:{model}", "--dataset", f"own_printing:{data}"),
        before=f"import atexit, sys; sys.path.insert(0, {str(tmp_path)!r}); atexit.register(print, 'at exit')",
    )
    result = json.loads(done.stdout)
    assert "imported" in done.stderr
    assert "Traceback" not in done.stderr
    if said is None:
        assert (done.returncode, result["aborted"]) == (0, [])
        assert {"loading", "forward", "from C", "from a child", "at exit"} <= set(done.stderr.splitlines())
    else:
        assert done.returncode == 1
        assert said in result["error"]


def test_an_evaluation_of_own_code_that_prints_is_one_object(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = own_module(tmp_path, OWN, monkeypatch)
    given = ("--model", f"{name}:model", "--dataset", f"{name}:data")
    trained = invoke("train", "--clients", 3, "--rounds", 1, "--epochs", 1, "--json", "--out", "run", *given)
    assert json.loads(trained.stdout)["rounds"] == 1
    for arguments in (("evaluate", "run", "--own-code"), ("report", "run", "--own-code")):
        result = invoke(*arguments, "--json")
        assert result.exit_code == 0, result.output
        assert 0 <= json.loads(result.stdout)["accuracy"] <= 1
        assert "loading" in result.stderr


def test_a_mistake_of_ours_is_an_object_too_and_keeps_its_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ZeroDivisionError), reported(as_json=True):
        raise ZeroDivisionError("of ours")
    assert json.loads(capsys.readouterr().out) == {"error": "ZeroDivisionError: of ours"}


DEAF = "import os, signal; os.kill(os.getpid(), signal.SIGINT); "


def test_children_do_not_hear_ctrl_c_from_their_first_line_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_CHILD", DEAF + processes._CHILD)
    result = invoke(*TRAIN, "--engine", "processes", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["included"] == [3]

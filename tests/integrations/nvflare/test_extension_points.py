"""The parts of NVFlare that this integration builds on: the test names a part that moves."""

import importlib
import inspect
from pathlib import Path

import pytest

pytest.importorskip("nvflare", reason="needs NVFlare, which has its own environment: make test-nvflare")

from nvflare.app_common.workflows.fedavg import FedAvg

from fl.integrations.nvflare import SecAggController, _nvflare


def moved(what: str) -> str:
    return f"NVFlare {_nvflare.version()} has moved an extension point of fl.integrations.nvflare: {what}"


def test_all_are_there() -> None:
    missing = _nvflare.missing_extension_points()
    assert not missing, moved(", ".join(missing))


def test_a_missing_one_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    points = (
        *_nvflare.EXTENSION_POINTS,
        ("nvflare.apis.executor", "Executor", ("execute", "perform")),
        ("nvflare.no_such_module", "Thing", ()),
    )
    monkeypatch.setattr(_nvflare, "EXTENSION_POINTS", points)
    assert _nvflare.missing_extension_points() == [
        "nvflare.apis.executor.Executor.perform",
        "nvflare.no_such_module.Thing",
    ]


@pytest.mark.parametrize("hook", ["send_model", "_get_aggregated_result", "sample_clients", "update_model"])
def test_fedavg_asks_its_hooks(hook: str) -> None:
    """They must be called by FedAvg's own loop, not only exist."""
    assert f"self.{hook}(" in inspect.getsource(FedAvg.run), moved(f"FedAvg.run does not call {hook}")


def test_hooks_are_called_with_the_arguments_that_are_taken() -> None:
    source = inspect.getsource(FedAvg.run)
    call = source[source.index("self.send_model(") :]
    call = call[: call.index(")\n") + 1]
    for argument in ("targets=", "data="):
        assert argument in call, moved(f"FedAvg.run calls send_model without {argument}")


@pytest.mark.parametrize("attribute", ["aggregator", "aggregation_weights", "exclude_vars", "task_name"])
def test_fedavg_keeps_its_arguments(attribute: str) -> None:
    controller = SecAggController(clip=1.0, max_steps=10)
    assert hasattr(controller, attribute), moved(f"FedAvg has no {attribute}")


def test_the_version_is_one_that_was_tried() -> None:
    tried = {tuple(version.split(".")[:2]) for version in _nvflare.TESTED_VERSIONS}
    assert tuple(_nvflare.version().split(".")[:2]) in tried, (
        f"these tests run with NVFlare {_nvflare.version()}: where they pass, _nvflare.TESTED_VERSIONS and "
        "docs/integrations/nvflare.md are to name it"
    )


def test_all_of_nvflare_comes_through_one_file() -> None:
    folder = Path(_nvflare.__file__).parent
    for path in folder.glob("*.py"):
        if path.name != "_nvflare.py":
            text = path.read_text(encoding="utf-8")
            assert "from nvflare" not in text, path.name
            assert "import nvflare" not in text, path.name


def test_everything_that_is_promised_is_there() -> None:
    package = importlib.import_module("fl.integrations.nvflare")
    assert all(hasattr(package, name) for name in package.__all__)

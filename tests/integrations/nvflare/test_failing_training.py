"""Training that fails, as a server's model can make it: the server does not see whose."""

import re
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("nvflare", reason="needs NVFlare, which has its own environment: make test-nvflare")

import numpy as np
from nvflare.apis.dxo import MetaKey
from nvflare.apis.fl_constant import ReturnCode
from nvflare.apis.shareable import Shareable, make_reply
from nvflare.app_common.abstract.fl_model import FLModel

from fl.integrations.nvflare.model_encoding import as_model
from secagg import Completed
from tests.integrations.nvflare.loopback import LoopbackCourier, announce, initial_model
from tests.integrations.nvflare.test_rounds import CHANGE, STEPS, make_sites, trained, weighted


def not_finite(model: FLModel) -> FLModel:
    model.params["bias"][1] = np.nan
    return trained(model, "b")


def half_a_step(model: FLModel) -> FLModel:
    result = trained(model, "b")
    result.meta[MetaKey.NUM_STEPS_CURRENT_ROUND] = 64.5
    return result


def fails(model: FLModel) -> Shareable:
    return make_reply(ReturnCode.EXECUTION_EXCEPTION)


def raises(model: FLModel) -> Any:
    raise ZeroDivisionError("the loss is nan")


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (not_finite, "not finite"),
        (half_a_step, "not a whole number of at least 0"),
        (fails, "the trainer failed"),
        (raises, "ZeroDivisionError: the loss is nan"),
    ],
)
def test_the_server_does_not_see_whose_training_fails(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, broken: Any, reason: str
) -> None:
    """The site's own log says why; its input counts nothing, also for the metrics."""
    sites, model = make_sites(tmp_path, {"b": broken}), initial_model()
    courier = LoopbackCourier(announce(model, sites), model, sites)
    report = courier.run()
    assert isinstance(report.outcome, Completed)
    assert report.outcome.included == (0, 1, 2)
    assert report.reasons == {}
    mean = courier.announcement.encoding.decode(report.outcome.sum, 3, as_model(model.params))
    assert mean.total_steps == STEPS["a"] + STEPS["c"]
    np.testing.assert_allclose(mean.differences["bias"], weighted(CHANGE, ("a", "c")), atol=1e-5)
    assert mean.metrics == pytest.approx({"accuracy": weighted(CHANGE, ("a", "c"))}, abs=1e-5)
    assert re.search(reason, caplog.text)
    assert all(record.exc_info is None for record in caplog.records)
    sizes = {name: [len(result) for result in site.results] for name, site in sites.items()}
    assert sizes["b"] == sizes["a"]

"""NVFlare's sites against a server that lies at random; `lying_courier` plays any number of sessions."""

import pytest

pytest.importorskip("nvflare", reason="needs NVFlare, which has its own environment: make test-nvflare")

from nvflare.app_common.utils.fl_model_utils import FLModelUtils

from fl.integrations.nvflare import executor
from fl.integrations.nvflare.model_encoding import as_model
from fl.integrations.nvflare.site_record import SiteRecord
from secagg import Adversary
from tests.adversarial.lies.figures import Lie
from tests.adversarial.random_lies import THRIFTY, assert_held, campaign, played
from tests.integrations.nvflare.lying_courier import nvflare
from transport import ClientRecord

# Another offer is another session here, in which no client has a second run; and numbers are those of sites' names.
WITHOUT = {Lie.OTHER_OFFER, Lie.OLD_KEYS, Lie.OTHER_NUMBER}


def test_random_lies_get_nothing_from_sites(tmp_path):
    assert_held(played(nvflare(tmp_path), sessions=60, seed=5, without=WITHOUT, graphs=THRIFTY), WITHOUT)


def _no_record(patch: pytest.MonkeyPatch) -> None:
    for name in ("check", "enter", "check_round", "answer"):
        patch.setattr(ClientRecord, name, lambda *arguments, **options: None)


def _measured_again(patch: pytest.MonkeyPatch) -> None:
    """Do not record sessions that measure."""
    for name in ("check", "answer"):
        honest = getattr(SiteRecord, name)

        def of_updates(self, *arguments, _honest=honest):
            if not arguments[-1].encoding.measures:
                _honest(self, *arguments)

        patch.setattr(SiteRecord, name, of_updates)


def _any_model(patch: pytest.MonkeyPatch) -> None:
    """Train on the model that arrives, without comparing it with the announced one."""
    arrived = lambda task, announcement: as_model(FLModelUtils.from_shareable(task).params)  # noqa: E731
    patch.setattr(executor, "received_model", arrived)


@pytest.mark.parametrize(
    ("disable", "found", "seed"),
    [
        (_no_record, "second answers", 0),
        (_measured_again, "second answers", 0),
        (_any_model, "sums over different models", 0),
    ],
    ids=["nothing remembered", "measuring not remembered", "another model than was announced"],
)
def test_the_campaign_finds_a_missing_check(disable, found, seed, tmp_path, monkeypatch):
    disable(monkeypatch)
    figures = campaign(
        nvflare(tmp_path),
        sessions=400,
        seed=seed,
        modes=(Adversary.MALICIOUS,),
        graphs=("complete",),
        stop=lambda figures: bool(figures.broken[found]),
    )
    assert figures.broken[found], figures

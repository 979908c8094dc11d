"""The text of a session in NVFlare's log."""

import pytest

pytest.importorskip("nvflare", reason="needs NVFlare, which has its own environment: make test-nvflare")

from fl.integrations.nvflare.server_session import TaskReport, describe
from secagg import ClientDropped, DropReason, Round


def test_a_sites_name_can_be_shown():
    dropped = {
        name: ClientDropped(number, DropReason.DEADLINE, Round.SHARE_KEYS)
        for number, name in enumerate(("hospital Süd", "\x1b[2Jnobody left\n"))
    }
    text = describe(TaskReport(None, dropped, {}, {}, {}, {}), 3)
    assert f"hospital Süd in {Round.SHARE_KEYS.value}" in text
    assert "\\x1b[2Jnobody left\\n in" in text
    assert text.isprintable()

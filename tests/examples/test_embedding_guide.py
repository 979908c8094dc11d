"""The guide's Python runs as it stands, and its names are those of the code."""

import re
from pathlib import Path
from typing import Any

import pytest

import secagg

pytestmark = pytest.mark.live

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs/how-to/embedding.md").read_text()


def test_the_blocks_run_in_order(capsys) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", GUIDE, flags=re.MULTILINE | re.DOTALL)
    assert len(blocks) == 10
    namespace: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, "docs/how-to/embedding.md", "exec"), namespace)  # noqa: S102 - our own guide
    said = capsys.readouterr().out
    assert "threshold 67" in said
    assert "without client 4 since AdvertiseKeys: its message did not arrive in time" in said
    assert "without client 3 since MaskedInputCollection: its message did not arrive in time" in said


def test_every_event_and_error_is_in_its_tables() -> None:
    events = {"Send", "ClientDropped", "SharesDisputed", "UnmaskReady", "Completed", "Aborted", "InputRequested"}
    kinds = (*secagg.events.ServerEvent.__args__, *secagg.events.ClientEvent.__args__)
    assert events == {kind.__name__ for kind in kinds}
    errors = {"LocalProtocolError", "CodecError", "RemoteProtocolError", "PlanError", "PolicyError"}
    raised = [kind for kind in secagg.SecAggError.__subclasses__() if kind.__module__ == "secagg.errors"]
    assert errors == {kind.__name__ for kind in raised}
    first_cells = "\n".join(re.findall(r"^\| `(\w+)", GUIDE, flags=re.MULTILINE)).split()
    assert events | errors <= set(first_cells)


def test_the_names_it_mentions_exist() -> None:
    import transport
    import transport.tcp

    for module, name in re.findall(r"`(secagg|transport|transport\.tcp)\.([A-Za-z]\w*)", GUIDE):
        assert hasattr({"secagg": secagg, "transport": transport, "transport.tcp": transport.tcp}[module], name), name

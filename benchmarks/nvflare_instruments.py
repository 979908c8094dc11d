"""Components of a measured job: they write their measurements to files, one JSON object per line."""

import json
import time
from pathlib import Path
from typing import Any

from nvflare.apis.event_type import EventType
from nvflare.apis.fl_constant import FLContextKey
from nvflare.apis.fl_context import FLContext
from nvflare.app_common.app_event_type import AppEventType
from nvflare.fuel.sec.security_content_service import SecurityContentManager, SecurityContentService
from nvflare.fuel.utils import fobs
from nvflare.lighter.impl.he import HEBuilder
from nvflare.widgets.widget import Widget


class RoundClock(Widget):
    """On the server: records the start of each round."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """Record the time of a round's start."""
        if event_type == AppEventType.ROUND_STARTED:
            _append(self.path, {"began": time.monotonic()})


class WireMeter(Widget):
    """On a site: records the bytes of each task's data and of its result, in NVFlare's encoding."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """Record the bytes of one task."""
        if event_type == EventType.BEFORE_TASK_DATA_FILTER:
            self._note("down", fl_ctx, FLContextKey.TASK_DATA)
        elif event_type == EventType.AFTER_TASK_RESULT_FILTER:
            self._note("up", fl_ctx, FLContextKey.TASK_RESULT)

    def _note(self, way: str, fl_ctx: FLContext, key: str) -> None:
        data: Any = fl_ctx.get_prop(key)
        task = fl_ctx.get_prop(FLContextKey.TASK_NAME)
        _append(
            self.path,
            {"site": fl_ctx.get_identity_name(), "task": task, way: len(fobs.dumps(data)), "at": time.monotonic()},
        )


class HEContexts(Widget):
    """Contexts for NVFlare's homomorphic components in the simulator, where no site is provisioned."""

    def __init__(self, folder: str) -> None:
        super().__init__()
        self.folder = folder
        # The simulator makes it look into a folder without contexts.
        SecurityContentService.security_content_manager = SecurityContentManager(folder)


def write_he_contexts(folder: Path) -> dict[str, bytes]:
    """Write and return the files that NVFlare's provisioning makes; all sites get the same secret key."""
    builder = HEBuilder()
    builder.initialize(None, None)
    contexts = {"server": builder.get_serialized_context(), "client": builder.get_serialized_context(is_client=True)}
    for role, context in contexts.items():
        (folder / f"{role}_context.tenseal").write_bytes(context)
    return contexts


def _append(path: str, line: dict[str, object]) -> None:
    with Path(path).open("a") as file:
        file.write(json.dumps(line) + "\n")

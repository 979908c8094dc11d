"""A filter of incoming tasks that makes a site leave."""

import os
import signal
import time

from nvflare.apis.filter import Filter
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable


class Leaving(Filter):
    """A filter that leaves at given tasks of given rounds.

    Args:
        site: the site that leaves.
        schedule: for each round of the job, ``task:how``: error, late, or killed; empty to stay.
    """

    def __init__(self, site: str, schedule: list[str]) -> None:
        super().__init__()
        self.site = site
        self.schedule = schedule
        self._round = -1

    def process(self, shareable: Shareable, fl_ctx: FLContext) -> Shareable:
        task = shareable.get_header("__task_name__")
        if task == "secagg_advertise_keys":
            self._round += 1
        if not self.schedule[self._round]:
            return shareable
        planned, _, how = self.schedule[self._round].partition(":")
        if fl_ctx.get_identity_name() == self.site and task == planned:
            if how == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            if how == "late":
                time.sleep(10)
            if how == "error":
                raise RuntimeError("this site leaves")
        return shareable

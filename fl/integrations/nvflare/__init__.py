"""Secure aggregation inside NVFlare: jobs, trainers and model saving stay NVFlare's; the server sees only averages.

`add_secure_aggregation` makes a recipe secure.  A job that is written by hand uses `SecAggController` on the server and
`SecAggExecutor`, around any trainer, on the sites.
"""

from fl.integrations.nvflare.controller import SecAggController
from fl.integrations.nvflare.errors import ModelError, NVFlareJobError, TaskAnnouncementError
from fl.integrations.nvflare.executor import SecAggExecutor
from fl.integrations.nvflare.identities import SiteIdentities, SiteKeyFiles, new_identity_file
from fl.integrations.nvflare.recipe import add_secure_aggregation

__all__ = [
    "ModelError",
    "NVFlareJobError",
    "SecAggController",
    "SecAggExecutor",
    "SiteIdentities",
    "SiteKeyFiles",
    "TaskAnnouncementError",
    "add_secure_aggregation",
    "new_identity_file",
]

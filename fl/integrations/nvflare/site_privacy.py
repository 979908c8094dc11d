"""A site's limits of privacy, in a file of its own: no job can loosen them.

``secagg_privacy.json`` in the site's folder ``local``, as its operator writes it::

    {"max_epsilon": 8, "delta": 1e-6, "max_epsilon_per_round": 1, "min_honest": 3}

The last two may be left out. What the site has given away in all jobs is in ``secagg_privacy``, next to it.
"""

import json
from typing import Any

from fl.errors import ConfigError
from fl.integrations.nvflare._nvflare import FLContext
from fl.integrations.nvflare.errors import NVFlareJobError
from fl.integrations.nvflare.identities import local_path
from fl.integrations.own_privacy import OwnPrivacy
from fl.privacy.policy import PrivacyPolicy
from secagg import SessionPolicy

LIMITS = "secagg_privacy.json"
_FOLDER = "secagg_privacy"
_MOST_BYTES = 1 << 16
_KINDS: dict[str, tuple[type, ...]] = {
    "max_epsilon": (int, float),
    "delta": (int, float),
    "max_epsilon_per_round": (int, float),
    "min_honest": (int,),
}


def site_privacy(policy: SessionPolicy, fl_ctx: FLContext) -> OwnPrivacy:
    """Return the site's limits, none if it has no file of them; NVFlareJobError if the file cannot be used."""
    path = local_path(LIMITS, fl_ctx)
    try:
        with path.open("rb") as file:
            limits = _limits(json.loads(file.read(_MOST_BYTES)))
    except FileNotFoundError:
        return OwnPrivacy(None, policy, None)
    except (OSError, ValueError, ConfigError) as error:
        # Without the file's limits the site must not go on.
        raise NVFlareJobError(f"the limits of privacy in {path} cannot be used: {error}") from None
    return OwnPrivacy(limits, policy, local_path(_FOLDER, fl_ctx))


def _limits(stored: Any) -> PrivacyPolicy:
    if not isinstance(stored, dict) or not {"max_epsilon", "delta"} <= stored.keys() <= _KINDS.keys():
        raise ConfigError(f"it needs max_epsilon and delta, and may have {' and '.join(list(_KINDS)[2:])}")
    for name, value in stored.items():
        if type(value) not in _KINDS[name]:
            raise ConfigError(f"{name} must be a number, not {value!r}")
    return PrivacyPolicy(**stored)

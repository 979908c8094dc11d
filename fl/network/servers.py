"""The listening server of a run: in this process, or as fronts on Ray."""

import hashlib
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path

from fl.config.served import ServeOptions
from fl.engines.ray import require_ray
from secagg import ClientId
from transport import MaskRecovery
from transport.certificates.exclusion import Exclusions
from transport.fronts.front import FrontSettings
from transport.fronts.server import FrontedServer
from transport.tcp import SessionServer


def made_server(
    stack: ExitStack, options: ServeOptions, enrolled: Iterable[ClientId], exclusions: Exclusions | None, folder: Path
) -> tuple[SessionServer | FrontedServer, MaskRecovery | None]:
    """Return the server, which does not listen yet, and what recovers masks if it is not this machine.

    ConfigError if fronts are asked for, and Ray is missing, not reachable or too small.
    """
    if not options.fronts:
        server = SessionServer(options.address, options.tls, options.limits, enrolled, exclusions, options.proxies)
        return server, None
    require_ray("fronts need")
    from fl.fronts.channels import fronted_server

    settings = FrontSettings(
        options.address,
        options.tls,
        options.limits,
        frozenset(enrolled),
        options.exclude,
        options.crl,
        options.proxies,
    )
    # The same for a server that comes back after a crash, and for no other run.
    key = hashlib.sha256(f"{folder.resolve()} {options.address}".encode()).hexdigest()[:16]
    return stack.enter_context(fronted_server(settings.with_whole_paths(), options.fronts, key, options.ray))

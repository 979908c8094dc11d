"""The listening server of a run, in this process or in fronts on Ray, and the errors of its addresses."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from socket import gaierror

from fl.config.served import ServeOptions
from fl.engines.ray import require_ray
from fl.network.addresses import show_address
from fl.network.errors import NetworkError
from transport import MaskRecovery, TransportError
from transport.certificates.exclusion import Exclusions
from transport.fronts.front import FrontSettings
from transport.fronts.server import FrontedServer
from transport.tcp import Address, SessionServer


def server_of(
    options: ServeOptions, num_clients: int, folder: Path, exclusions: Exclusions | None, stack: ExitStack
) -> tuple[SessionServer | FrontedServer, MaskRecovery | None]:
    """Return the server, and what recovers the masks if it is not this machine; ``stack`` ends the fronts."""
    enrolled = range(num_clients)
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


@contextmanager
def binding(address: Address, option: str) -> Iterator[None]:
    """Raise NetworkError with the address that cannot be bound, and the option that gave it."""
    try:
        yield
    except OSError as error:
        # asyncio puts its own sentence around the system's text.
        why = error.strerror if isinstance(error, gaierror) or not error.errno else os.strerror(error.errno)
        raise NetworkError(
            f"cannot listen on {show_address(address)}: {why}; give another address with {option}"
        ) from None


@contextmanager
def network_errors() -> Iterator[None]:
    """Turn errors of the network into NetworkError."""
    try:
        yield
    except TransportError as error:
        raise NetworkError(str(error)) from None
    except OSError as error:
        raise NetworkError(f"cannot serve: {error.strerror or error}") from None
